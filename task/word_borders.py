"""Where a text stands in a query, with regard to the borders of words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

# A letter of a script with blanks between words. Others (Thai to Khmer, kana, Chinese characters) have words side by
# side, and Korean writes particles onto them.
_LETTER: Final = re.compile(
    "[^\\W\\d_\u0e00-\u11ff\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def occurrences(query: str, text: str) -> Iterator[int]:
    """Starts of a text in a query: first those at word borders, then those within words (scripts without blanks)."""
    inside = []
    at = query.find(text) if text else -1
    while at >= 0:
        end = at + len(text)
        if (at == 0 or not _joined(query[at - 1], text[0])) and (
            end == len(query) or not _joined(text[-1], query[end])
        ):
            yield at
        else:
            inside.append(at)
        at = query.find(text, at + 1)
    yield from inside


def _joined(left: str, right: str) -> bool:
    return left.isalnum() and right.isalnum()


def cuts_word(query: str, start: int, end: int) -> bool:
    """Whether a span begins or ends between two letters of a script with blanks between words."""
    return any(0 < at < len(query) and _LETTER.match(query[at - 1]) and _LETTER.match(query[at]) for at in (start, end))

"""Finds the span of a teacher's value in the query: verbatim, or after small repairs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rapidfuzz.distance import OSA

from task.word_borders import occurrences

_WORD = re.compile(r"\S+")
_LONGER = 1  # a value may have one word more or less than its span


@dataclass(frozen=True, slots=True)
class Found:
    """The span of a value in a query.

    Attributes:
        kind: `verbatim`, `case`, `blanks` or `edits`.
        similarity: 1 for verbatim, case and blanks; below that the edit similarity of the words.
    """

    start: int
    end: int
    kind: str
    similarity: float


def find(query: str, *, text: str, least: float, taken: frozenset[int] = frozenset()) -> Found | None:
    """The span of the query that a value refers to.

    Args:
        least: Minimum edit similarity of a span, in [0, 1]; 1 allows differences in case and blanks only, 0 none.
        taken: Starts of occurrences that belong to other labels.

    Returns:
        The first verbatim occurrence that is not taken, else the most similar span, else None.
    """
    wanted = text.strip()
    if not wanted:
        return None
    for start in occurrences(query, wanted):
        if start not in taken:
            return Found(start, start + len(wanted), "verbatim", 1.0)
    if least == 0.0:
        return None
    plain = _plain(wanted)
    words = wanted.split()
    best: Found | None = None
    for start, end in _runs(query, len(words)):
        if start in taken:
            continue
        have = query[start:end]
        if have.casefold() == wanted.casefold():
            return Found(start, end, "case", 1.0)
        if _plain(have) == plain:
            best = Found(start, end, "blanks", 1.0)
            continue
        similarity = OSA.normalized_similarity(have.casefold(), wanted.casefold())
        if least < 1.0 and similarity >= least and (best is None or similarity > best.similarity):
            best = Found(start, end, "edits", float(similarity))
    return best


def _runs(query: str, words: int) -> Iterator[tuple[int, int]]:
    spans = [m.span() for m in _WORD.finditer(query)]
    for length in sorted({words, *range(max(1, words - _LONGER), words + _LONGER + 1)}, key=lambda n: abs(n - words)):
        for first in range(len(spans) - length + 1):
            yield spans[first][0], spans[first + length - 1][1]


def _plain(text: str) -> str:
    return "".join(text.split()).casefold()

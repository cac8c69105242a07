"""Text that can be written: without half characters, and as JSON that is one line to every reader."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

# `json.dumps` escapes all control characters below U+0020, but not these three, at which `str.splitlines` and the
# readers built on it (httpx's `iter_lines` is one) end a line as well. Inside JSON they stand in strings only.
_BREAKS: Final = {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_ANY_BREAK: Final = re.compile(f"[{''.join(_BREAKS)}]")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BREAK_BYTES: Final = tuple((raw.encode(), escape.encode()) for raw, escape in _BREAKS.items())


def has_half_character(text: str) -> bool:
    r"""Whether a text holds a lone surrogate: half of a character beyond U+FFFF, which no UTF-8 file can hold.

    JSON's escapes (`\ud83e`) and command-line arguments that are not UTF-8 give such texts.
    """
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def repaired(text: str) -> str:
    """A text with two halves joined and each half without its other replaced by U+FFFD; all others as they are."""
    if not has_half_character(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def repaired_object(row: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with `repaired` keys and texts: an `object_hook`, because escapes in JSON can hold halves."""
    return {repaired(k): repaired(v) if isinstance(v, str) else v for k, v in row.items()}


def repaired_json(value: Any) -> Any:
    """A JSON value with all its keys and texts `repaired`."""
    if isinstance(value, str):
        return repaired(value)
    if isinstance(value, Mapping):
        return {repaired(k): repaired_json(v) for k, v in value.items()}
    return [repaired_json(v) for v in value] if isinstance(value, list | tuple) else value


def printable(text: str) -> str:
    r"""A text for a terminal: control characters, line separators and half characters as escapes such as `\x1b`."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """A JSON text with U+0085, U+2028 and U+2029 escaped: the same value, on one line by every definition."""
    return text if text.isascii() else _ANY_BREAK.sub(lambda found: _BREAKS[found[0]], text)


def one_line_bytes(raw: bytes) -> bytes:
    """`one_line` of a JSON text in UTF-8."""
    if not raw.isascii():
        for found, escape in _BREAK_BYTES:
            raw = raw.replace(found, escape)
    return raw

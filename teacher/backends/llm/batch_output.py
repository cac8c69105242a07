"""Reads the output file of a batch. Its answers are paid for, so a line that cannot be read costs no other line."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_KEY = re.compile(r'"custom_id"\s*:\s*"([^"\\]*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLine:
    """One line.

    Attributes:
        key: Of its request, also where only that much could be read; None if not even that.
        row: The line; None if it cannot be read.
        text: What stood there.
        problem: Why it cannot be read.
    """

    key: str | None
    row: Mapping[str, Any] | None
    text: str
    problem: str = ""


def read_lines(raw: bytes, name: str) -> Iterator[OutputLine]:
    r"""The lines of a file; blank ones and byte order marks are passed over.

    Lines end at `\n` only: U+2028, U+2029 and U+0085 may stand inside strings. Bytes that are not UTF-8 become U+FFFD.

    Args:
        name: Of the file, for the problems.
    """
    for number, part in enumerate(raw.split(b"\n"), 1):
        part = part.removeprefix(codecs.BOM_UTF8).strip()
        if not part:
            continue
        text = part.decode(errors="replace")
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            found = _KEY.search(text)
            problem = f"line {number} of the {name} is not JSON: {error}"
            yield OutputLine(key=found[1] if found else None, row=None, text=text, problem=problem)
            continue
        key = row.get("custom_id") if isinstance(row, dict) else None
        if isinstance(key, str):
            yield OutputLine(key=key, row=row, text=text)
        else:
            yield OutputLine(key=None, row=None, text=text, problem=f"line {number} of the {name} has no custom_id")

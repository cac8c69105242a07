"""Cells of a CSV file that a spreadsheet program shows as text instead of computing them as a formula.

A cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage return is run as a formula by common programs, which may
start others with it. A quote before it makes it text. Both functions are inverse to each other on every text.
"""

from __future__ import annotations

import re
from typing import Final

# Quotes before such a character get one more, so that removing one always gives the text of before.
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")


def safe_cell(text: str) -> str:
    """The text, with a quote before it where a spreadsheet program would compute it."""
    return f"'{text}" if _FORMULA.match(text) else text


def text_of_cell(cell: str) -> str:
    """The inverse of `safe_cell`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell

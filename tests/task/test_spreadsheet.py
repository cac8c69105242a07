"""Cells of a spreadsheet: nothing is computed, and every text comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.spreadsheet import safe_cell, text_of_cell

STARTS = st.text(alphabet="=+-@'\t\r a", max_size=4)


@given(st.builds(str.__add__, STARTS, st.text(max_size=5)))
def test_every_text_comes_back_and_none_is_a_formula(text: str) -> None:
    cell = safe_cell(text)
    assert text_of_cell(cell) == text
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize(("text", "cell"), [
    ("=1+1", "'=1+1"), ("'=1+1", "''=1+1"), ("'n sync", "'n sync"), ("oat-milk", "oat-milk"), ("", ""), ("'", "'"),
])
def test_only_what_would_be_computed_gets_a_quote(text: str, cell: str) -> None:
    assert safe_cell(text) == cell

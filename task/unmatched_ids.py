"""Ids of two tables that do not meet."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from task.errors import InputError, warn

_SHOWN_IDS: Final = 3
# What tools do to ids: a number loses its leading zeros, a column with gaps becomes floating, cells keep blanks.
_SAME_ID: Final[tuple[tuple[Callable[[str], str], str], ...]] = (
    (lambda x: x.lstrip("0"), "leading zeros were lost: write ids as text"),
    (lambda x: x.removesuffix(".0"), "ids were written as floating numbers: write them as text"),
    (lambda x: x.strip().casefold(), "they differ in blanks or capitals"),
)


def tell_unmatched(source: Path | str, unknown: Mapping[str, int], items: Collection[str], *, met: int) -> None:
    """Say how many conversions are of no item of the catalogue, with examples of both sides.

    Args:
        unknown: Id that the catalogue lacks → number of its conversions.
        items: Ids of the catalogue.
        met: Number of conversions with an item.

    Raises:
        InputError: All of them.
    """
    rows = sum(unknown.values())
    problem = f"{rows:,} of {rows + met:,} conversions are of items that the catalogue does not have"
    found, known = (list(itertools.islice(ids, _SHOWN_IDS)) for ids in (unknown, items))
    expected = f"ids of the catalogue, such as {known}" if known else "a catalogue that has items"
    fix = None
    for same, why in _SAME_ID:
        plain = {same(i) for i in items}
        meeting = sum(n for i, n in unknown.items() if same(i) in plain)
        if meeting:
            fix = f"{meeting:,} of them would meet an item but for this: {why}"
            break
    if met:
        warn(f"{problem}; they are left out", file=source, field="item_id", found=found, expected=expected, fix=fix)
    else:
        raise InputError(problem, file=source, field="item_id", found=found, expected=expected, fix=fix)

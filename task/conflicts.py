"""Queries that one file labels in different ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from task.errors import InputError, warn
from task.labels import Example, ordered

Conflicts = Literal["last", "first", "leave-out", "refuse"]
_SHOWN = 3


def settle(
    rows: Sequence[Example], lines: Sequence[int], source: Path | str, choice: Conflicts | None
) -> list[Example]:
    """The rows of a file with one labelling a query; how many queries had several is told, with examples.

    Args:
        lines: Line of each row.
        choice: `last` and `first` give all rows of a query the labels of its last or first one, so that their counts
            still add up; `leave-out` drops them; None only tells and returns all rows as they are.

    Raises:
        InputError: There are such queries, and `choice` is `refuse`.
    """
    groups: dict[str, list[int]] = {}
    for n, row in enumerate(rows):
        groups.setdefault(row.query, []).append(n)
    several = {
        query: where for query, where in groups.items()
        if len(where) > 1 and len({tuple(x.key for x in ordered(rows[n].labels)) for n in where}) > 1
    }
    if not several:
        return list(rows)
    shown = list(several.items())[:_SHOWN]
    examples = "; ".join(f"{query!r} in lines {', '.join(str(lines[n]) for n in where)}" for query, where in shown)
    problem = f"{len(several):,} queries have rows with different labels ({examples})"
    if choice == "refuse":
        raise InputError(
            problem, file=source, field="labels", expected="one labelling a query",
            fix="Correct the rows, or set data.conflicts to last, first or leave-out",
        )
    done = {
        None: "all of these rows are used", "last": "the last row of each is used",
        "first": "the first row of each is used", "leave-out": "all rows of these queries are left out",
    }[choice]
    fix = "data.conflicts decides: last, first, leave-out or refuse" if choice else None
    warn(f"{problem}; {done}", file=source, field="labels", fix=fix)
    if choice == "leave-out":
        return [row for row in rows if row.query not in several]
    if choice is None:
        return list(rows)
    chosen = {query: rows[where[-1 if choice == "last" else 0]].labels for query, where in several.items()}
    return [replace(row, labels=chosen[row.query]) if row.query in chosen else row for row in rows]

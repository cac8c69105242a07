"""Slices of the gold rows: by traffic, number of words and labels, seen values, and columns of the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from task.labels import Example
from task.normalize import normaliser, remembering
from task.spec import Task

Slices = Mapping[str, Sequence[str]]  # dimension → the part that each row belongs to
TRAFFIC: Final = ("head", "torso", "tail")
_MOST_PARTS: Final = 12  # of a column; the rarer values form one part
_REST: Final = "other"


def slices_of(
    gold: Sequence[Example], task: Task, *, log: Sequence[Example] = (), train: Iterable[Example] | None = None,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, list[str]]:
    """All slices of the gold rows that the data allows.

    Args:
        log: The query log; gives `traffic` where it has query counts.
        train: The training rows; gives `values`: whether they contain all values of a row.
        columns: Further columns of the data: a value for each gold row.

    Returns:
        Dimensions `traffic`, `words`, `labels`, `values` and the columns; a dimension with one part only is left out.
    """
    out: dict[str, list[str]] = {}
    if len({q.count for q in log}) > 1:
        out["traffic"] = traffic(gold, log, task)
    out["words"] = [_range(max(1, len(g.query.split())), (1, 3, 5), "word", 1) for g in gold]
    out["labels"] = [_range(len(g.labels), (0, 1, 2, 3), "label", 0) for g in gold]
    if train is not None:
        out["values"] = seen_values(gold, train, task)
    for name, values in (columns or {}).items():
        common = {v for v, _ in Counter(values).most_common(_MOST_PARTS)}
        out[name] = [v if v in common else _REST for v in values]
    return {name: parts for name, parts in out.items() if len(set(parts)) > 1}


def traffic(gold: Sequence[Example], log: Sequence[Example], task: Task) -> list[str]:
    """`head`, `torso` or `tail` of each gold row by its query's traffic rank in the log; unlogged queries are tail."""
    normalise = remembering(normaliser(task.normaliser))
    ranked = sorted(log, key=lambda x: -x.count)
    ranks = {normalise(x.query): i for i, x in reversed(list(enumerate(ranked)))}
    head, torso, tail = TRAFFIC
    out = []
    for row in gold:
        rank = ranks.get(normalise(row.query), len(ranked))
        out.append(head if rank < task.eval.head else torso if rank < task.eval.torso else tail)
    return out


def seen_values(gold: Sequence[Example], train: Iterable[Example], task: Task) -> list[str]:
    """Whether every (role, value) of a row's open labels occurs in the training rows."""
    normalise = remembering(normaliser(task.normaliser))
    seen = {(x.role, normalise(x.text)) for e in train for x in e.labels}
    open_roles = {r.name for r in task.roles if r.kind == "open"}

    def part(row: Example) -> str:
        values = [(x.role, normalise(x.text)) for x in row.labels if x.role in open_roles]
        return "no value" if not values else "all seen" if all(v in seen for v in values) else "some unseen"

    return [part(row) for row in gold]


def parts(dimension: str, names: Iterable[str]) -> list[str]:
    """The parts of a dimension in display order."""
    known = set(names)
    if dimension == "traffic":
        return [n for n in TRAFFIC if n in known]
    return sorted(known, key=lambda n: (n == _REST, n))


def _range(number: int, ends: Sequence[int], noun: str, low: int) -> str:
    """`1 word`, `2-3 words`, `6+ words`."""
    for end in ends:
        if number <= end:
            return f"{end} {noun}{'' if end == 1 else 's'}" if low >= end else f"{low}-{end} {noun}s"
        low = end + 1
    return f"{low}+ {noun}s"

"""What rewrites are worth: how many queries have one, and the bought items that the query's own words do not find.

Whether a rewrite is right is precision by role, as for every role (`eval.quality`). This module measures what rewrites
are for. The ranked lists of the query and of its rewrites are fused by reciprocal rank (Cormack et al. 2009), and the
first k items of the fused list are compared with the first k of the query's own list: the same number of items either
way, so that more searches do not win by showing more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, TypedDict

import numpy as np

from eval.bootstrap import Bootstrap, Floats, Statistic, draw
from eval.quality_schema import Estimate
from task.labels import Example, surest_first
from task.spec import Task

DEPTHS: Final = (10, 50)
"""Numbers of items at which is measured what a search finds."""

ALL: Final = "all types"
"""The row of all text roles together."""

Search = Callable[[Sequence[str]], Sequence[Sequence[str]]]
"""Texts → for each the ids of the items that it finds, best first; at least `max(DEPTHS)` where there are as many."""


class FoundAt(TypedDict):
    """What is found among the first k items; shares of (query, bought item) pairs, with intervals over queries.

    Attributes:
        alone: Recall of bought items by the query's own words.
        rewritten: … by the query and its rewrites.
        gain: The difference, paired.
        missed: Of the bought items that the query's own words do not find, the share that is found with its rewrites.
    """

    alone: Estimate
    rewritten: Estimate
    gain: Estimate
    missed: Estimate


class Found(TypedDict):
    """What the rewrites of one type, or of all, find.

    Attributes:
        coverage: Share of the queries that have a rewrite.
        at: By number of items, as text because JSON has no other keys.
    """

    coverage: Estimate
    at: dict[str, FoundAt]


class RewritesFound(TypedDict):
    """What rewrites find.

    Attributes:
        queries: With purchases; others say nothing about what should be found.
        bought: Their bought items: (query, item) pairs.
        types: By text role, and `ALL`.
    """

    queries: int
    bought: int
    types: dict[str, Found]


def coverage(rows: Sequence[Example], task: Task) -> dict[str, Estimate]:
    """Share of the queries that have a rewrite, with an interval over queries: by text role, and of any (`ALL`)."""
    names = [r.name for r in task.text_roles]
    have = np.array([[any(x.role == n for x in row.labels) for n in names] for row in rows], dtype=np.int64)
    have = have.reshape(len(rows), len(names))
    any_ = have.any(axis=1, keepdims=True).astype(np.int64) if names else np.zeros((len(rows), 1), dtype=np.int64)
    table = np.hstack([have, any_, np.ones((len(rows), 1), dtype=np.int64)])
    drawn = draw(table, resamples=task.eval.resamples, seed=task.eval.seed)
    return {n: _estimate(drawn, _ratio(i, len(names) + 1), task) for i, n in enumerate([*names, ALL])}


def found_items(
    rows: Sequence[Example], bought: Mapping[str, Collection[str]], search: Search, task: Task
) -> RewritesFound:
    """What the rewrites of queries find among the items that were bought after them.

    Args:
        rows: Queries with their labels; those of text roles are the rewrites, the more probable one first.
        bought: Query → ids of the items that were bought after it. Other queries are left out.
        search: Asked once for every different text.
    """
    rows = [r for r in rows if bought.get(r.query)]
    types = {r.name: (r.name,) for r in task.text_roles} | {ALL: tuple(r.name for r in task.text_roles)}
    texts = list(dict.fromkeys(
        t for row in rows for t in (row.query, *(x.text for x in row.labels if x.role in types[ALL]))
    ))
    lists = dict(zip(texts, search(texts), strict=True)) if texts else {}
    k = task.teacher.retrieval.rrf_k
    width = 1 + len(DEPTHS) * (1 + 2 * len(types))  # bought; by depth: found alone; by type: found, newly found
    table = np.zeros((len(rows), width), dtype=np.int64)
    for counts, row in zip(table, rows, strict=True):
        wanted = set(bought[row.query])
        fused = {
            name: _fused([lists[t] for t in (row.query, *_ranked(row, roles))], k) for name, roles in types.items()
        }
        counts[0] = len(wanted)
        for d, depth in enumerate(DEPTHS):
            own = wanted & set(lists[row.query][:depth])
            counts[1 + d] = len(own)
            for t, name in enumerate(types):
                both = wanted & set(fused[name][:depth])
                at = _columns(d, t, len(types))
                counts[at] = len(both), len(both - own)
    drawn = draw(table, resamples=task.eval.resamples, seed=task.eval.seed)
    shares = coverage(rows, task)
    return {
        "queries": len(rows), "bought": int(table[:, 0].sum()),
        "types": {
            name: {
                "coverage": shares[name],
                "at": {str(depth): _found_at(drawn, d, t, len(types), task) for d, depth in enumerate(DEPTHS)},
            }
            for t, name in enumerate(types)
        },
    }


def _columns(depth: int, type_: int, types: int) -> slice:
    """The columns of a type at a depth: bought items found, and those of them that the query alone does not find."""
    start = 1 + len(DEPTHS) + 2 * (depth * types + type_)
    return slice(start, start + 2)


def _found_at(drawn: Bootstrap, depth: int, type_: int, types: int, task: Task) -> FoundAt:
    own, at = 1 + depth, _columns(depth, type_, types).start
    alone, both = _ratio(own, 0), _ratio(at, 0)

    def missed(sums: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(sums[..., at + 1] / (sums[..., 0] - sums[..., own]), dtype=np.float64)

    return {
        "alone": _estimate(drawn, alone, task), "rewritten": _estimate(drawn, both, task),
        "gain": _estimate(drawn, lambda sums: both(sums) - alone(sums), task), "missed": _estimate(drawn, missed, task),
    }


def _ranked(row: Example, roles: Collection[str]) -> list[str]:
    """The rewrites of some roles, the more probable one first, each once."""
    return list(dict.fromkeys(x.text for x in surest_first(x for x in row.labels if x.role in roles)))


def _fused(lists: Sequence[Sequence[str]], k: int) -> list[str]:
    """Items of several lists, each best first: highest sum of 1 / (k + rank) first, ties in the order of the lists."""
    scores: dict[str, float] = {}
    for items in lists:
        for rank, item in enumerate(items, 1):
            scores[item] = scores.get(item, 0.0) + 1.0 / (k + rank)
    return sorted(scores, key=lambda item: -scores[item])


def _ratio(part: int, whole: int) -> Statistic:
    def share(sums: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(sums[..., part] / sums[..., whole], dtype=np.float64)

    return share


def _estimate(drawn: Bootstrap, statistic: Statistic, task: Task) -> Estimate:
    return drawn.estimate(statistic, task.eval.confidence, task.eval.interval)

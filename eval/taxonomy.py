"""Quality of a role whose values are paths of a taxonomy: at the leaf, level by level, and among the first answers.

At a level each label counts as its path cut off there, and one that ends above has no label there. So a label answered
by its parent is right on all levels but the last, which it misses. `leaf` compares whole paths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from eval.bootstrap import Statistic, draw
from eval.matching import Counts
from eval.metrics import MICRO, of_table
from eval.quality_schema import LevelQuality, TaxonomyQuality, micro
from task.labels import Example
from task.spec import Task
from task.value_tree import ancestors

_TP, _FP, _FN = range(3)


def taxonomy_quality(
    gold: Sequence[Example], predicted: Sequence[Example], task: Task, name: str
) -> TaxonomyQuality:
    """Precision, recall and F1 of a role, with intervals over queries.

    Args:
        gold: The reference labels.
        predicted: The same queries in the same order.
        name: A role with `separator`.
    """
    counts = level_counts(gold, predicted, task, name)
    e = task.eval
    drawn = draw(counts.reshape(len(counts), -1), resamples=e.resamples, seed=e.seed)
    rows: list[LevelQuality] = []
    for level in range(counts.shape[1]):
        here = [drawn.estimate(_of_level(f, level), e.confidence, e.interval) for f in MICRO.values()]
        rows.append({"support": int(counts[:, level, [_TP, _FN]].sum()), **micro(here)})
    return {"leaf": rows[0], "levels": rows[1:]}


def _of_level(statistic: Statistic, level: int) -> Statistic:
    return lambda sums: of_table(statistic, 1)(sums[..., 3 * level :])


def level_counts(gold: Sequence[Example], predicted: Sequence[Example], task: Task, name: str) -> Counts:
    """True positives, false positives and false negatives by query: shape (queries, 1 + levels, 3), the leaf first.

    Raises:
        ValueError: The two sides are not about the same queries in the same order, or the role has no taxonomy.
    """
    separator = task.role(name).separator
    if separator is None:
        raise ValueError(f"the role {name!r} has no taxonomy")
    if [g.query for g in gold] != [p.query for p in predicted]:
        raise ValueError("gold and predictions are not about the same queries in the same order")
    sides = [[_path(x, name, separator) for x in rows] for rows in (gold, predicted)]
    depth = max((len(path) for side in sides for path in side), default=0)
    out: Counts = np.zeros((len(gold), 1 + depth, 3), dtype=np.int64)
    for row, (want, have) in enumerate(zip(*sides, strict=True)):
        pairs = [(want[-1:], have[-1:]), *((want[at : at + 1], have[at : at + 1]) for at in range(depth))]
        for level, (w, h) in enumerate(pairs):
            right = bool(w) and w == h
            out[row, level] = right, bool(h) and not right, bool(w) and not right
    return out


def _path(example: Example, name: str, separator: str) -> tuple[str, ...]:
    """The nodes from the first level down to the value of a query; empty without one."""
    value = example.value(name)
    return () if value is None else ancestors(value, separator)


def hit_at(
    gold: Sequence[str | None], ranked: Sequence[Sequence[str | None]], count: int
) -> npt.NDArray[np.bool_]:
    """Whether the right answer is among the first ones, for each query; the share of queries is their mean.

    Args:
        gold: The right value of each query; None where there is none.
        ranked: The answers of each query, best first, as `SymbolTable.ranked` gives them; None is "none of these".
        count: How many of them count: 5 for hit@5.
    """
    return np.array([value in answers[:count] for value, answers in zip(gold, ranked, strict=True)], dtype=bool)

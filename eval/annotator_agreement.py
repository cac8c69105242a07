"""Agreement of human annotators on the gold rows: an upper bound for what a student can be expected to reach.

Where annotators disagree, no answer is right for all of them. So an F1 at the level of their agreement is not a
failure, and an F1 far above it means that the student has learned one annotator's habits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.bootstrap import draw
from eval.matching import Scheme
from eval.metrics import MICRO, of_table
from eval.quality_schema import Agreement, Estimate
from eval.seeds import per_query
from task.labels import Example
from task.spec import Task


def ceiling(
    gold: Sequence[Example], annotations: Sequence[Sequence[Example]], task: Task, by: Scheme = "span"
) -> Agreement:
    """F1 between each pair of annotators, and of each annotator against gold, on the queries that all of them labelled.

    Args:
        annotations: One set of labels for each annotator.
    """
    people = [{x.query: x for x in a} for a in annotations]
    rows = [g for g in gold if all(g.query in p for p in people)]
    sets = [[p[g.query] for g in rows] for p in people]
    between = [_f1(a, b, task, by) for i, a in enumerate(sets) for b in sets[i + 1 :]]
    against = [_f1(rows, s, task, by) for s in sets]
    return {
        "scheme": by, "rows": len(rows), "between": between, "gold": against, "mean_between": _mean(between),
        "mean_gold": _mean(against),
    }


def _f1(a: Sequence[Example], b: Sequence[Example], task: Task, by: Scheme) -> Estimate:
    drawn = draw(per_query(a, b, task, by), resamples=task.eval.resamples, seed=task.eval.seed)
    return drawn.estimate(of_table(MICRO["f1"], 1), task.eval.confidence, task.eval.interval)


def _mean(figures: Sequence[Estimate]) -> float | None:
    known = [f["value"] for f in figures if f["value"] is not None]
    return round(float(np.mean(known)), 6) if known else None

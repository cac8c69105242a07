"""Training runs with different seeds: their mean, its interval over queries and seeds, their standard deviation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.bootstrap import Floats, draw, percentile
from eval.matching import Counts, Scheme, count
from eval.metrics import MICRO, of_table
from eval.quality_schema import Estimate, SeedEstimate
from eval.significance import pooled
from task.labels import Example
from task.normalize import normaliser
from task.spec import Task

Runs = Sequence[Sequence[Example]]  # one set of predictions for each seed, rows as in gold


def over_seeds(gold: Sequence[Example], runs: Runs, task: Task, by: Scheme = "value") -> SeedEstimate:
    """Micro-F1 of predictions; see `pooled_f1`."""
    return pooled_f1([per_query(gold, run, task, by) for run in runs], task)


def difference_over_seeds(
    gold: Sequence[Example], a: Runs, b: Runs, task: Task, by: Scheme = "value", *, same_students: bool = False
) -> Estimate:
    """The mean F1 of predictions `a` minus that of `b`; see `pooled_difference`."""
    ours, theirs = ([per_query(gold, run, task, by) for run in runs] for runs in (a, b))
    return pooled_difference(ours, theirs, task, same_students=same_students)


def per_query(gold: Sequence[Example], run: Sequence[Example], task: Task, by: Scheme = "value") -> Counts:
    """True positives, false positives and false negatives of each query, shape (queries, 3)."""
    found = count(gold, run, [r.name for r in task.roles], by, normaliser(task.normaliser))
    return np.asarray(found.sum(axis=1), dtype=np.int64)


def pooled_f1(runs: Sequence[Counts], task: Task) -> SeedEstimate:
    """Micro-F1 from the counts of `per_query` of each run.

    Returns:
        The mean over seeds with an interval over queries and seeds (`pooled`), clipped to [0, 1]: Student's t over two
        or three seeds can exceed it.
    """
    points, samples = _f1(runs, task)
    mean, spread = pooled(points, samples, task.eval.confidence)
    low, high = mean["low"], mean["high"]
    return {
        "value": mean["value"], "low": None if low is None else max(low, 0.0),
        "high": None if high is None else min(high, 1.0), "spread": spread,
        "seeds": [round(float(p), 6) for p in points],
    }


def pooled_difference(
    a: Sequence[Counts], b: Sequence[Counts], task: Task, *, same_students: bool = False
) -> Estimate:
    """Mean F1 of `a` minus that of `b`: a bootstrap over queries and, within each resample, over seeds.

    Queries are paired (the same resampling indices for both); seeds are resampled on each side independently, so that a
    single outlying seed widens the interval.

    Args:
        same_students: `a[i]` and `b[i]` are predictions of one student, decoded in two ways: seeds are paired too.

    Raises:
        ValueError: `same_students` and not as many runs in `a` as in `b`.
    """
    if same_students and len(a) != len(b):
        raise ValueError(f"{len(a)} runs against {len(b)}: `same_students` needs as many in both")
    points, samples = _f1([*a, *b], task)
    rng = np.random.default_rng(task.eval.seed)
    ours, theirs = samples[: len(a)], samples[len(a) :]
    delta = _drawn(ours - theirs, rng) if same_students else _drawn(ours, rng) - _drawn(theirs, rng)
    low, high = percentile(delta, task.eval.confidence)
    value = float(points[: len(a)].mean() - points[len(a) :].mean())
    return {"value": round(value, 6), "low": round(low, 6), "high": round(high, 6)}


def _drawn(samples: Floats, rng: np.random.Generator) -> Floats:
    """Mean over seeds drawn with replacement, shape (resamples,), of samples of shape (seeds, resamples)."""
    seeds, resamples = samples.shape
    rows = rng.integers(0, seeds, (seeds, resamples))
    return np.asarray(samples[rows, np.arange(resamples)].mean(axis=0), dtype=np.float64)


def _f1(runs: Sequence[Counts], task: Task) -> tuple[Floats, Floats]:
    """F1 of each run, shape (seeds,), and of every resample, shape (seeds, resamples); an undefined F1 is 0.

    A resample has the same queries for all runs.
    """
    drawn = draw(np.hstack(list(runs)), resamples=task.eval.resamples, seed=task.eval.seed)
    f1 = of_table(MICRO["f1"], 1)
    parts = [slice(3 * i, 3 * i + 3) for i in range(len(runs))]
    points = np.array([float(f1(drawn.total[p])) for p in parts])
    samples = np.stack([f1(drawn.samples[:, p]) for p in parts])
    return np.nan_to_num(points), np.nan_to_num(samples)

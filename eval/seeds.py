"""Runs that differ in their seed, taken together: the mean, its interval over queries, and the spread over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.match import Scheme, count
from eval.metrics import Floats, bootstrap, interval, micro, resample_weights
from task.labels import Example
from task.normalize import normaliser
from task.spec import Task

Runs = Sequence[Sequence[Example]]  # one set of predictions for each seed, rows as in gold


def over_seeds(gold: Sequence[Example], runs: Runs, task: Task, by: Scheme = "value") -> dict[str, Any]:
    """Micro-F1.

    Returns:
        `{"value", "low", "high"}`: the mean over seeds with a bootstrap interval over queries; `seeds`: each run's own;
        `spread`: their standard deviation, None for one.
    """
    points, samples = _f1(gold, runs, task, by)
    low, high = interval(samples.mean(axis=0), task.eval.confidence)
    spread = round(float(points.std(ddof=1)), 6) if len(points) > 1 else None
    return {
        "value": round(float(points.mean()), 6), "low": round(low, 6), "high": round(high, 6),
        "seeds": [round(float(p), 6) for p in points], "spread": spread,
    }


def difference_over_seeds(
    gold: Sequence[Example], a: Runs, b: Runs, task: Task, by: Scheme = "value"
) -> dict[str, float]:
    """Mean F1 of `a` less that of `b`: a bootstrap over queries and, within each resample, over seeds.

    Queries are paired (the same resampling indices for both); seeds are drawn for each side on its own, so that a
    difference that one lucky seed makes has a wide interval.
    """
    (left, left_samples), (right, right_samples) = (_f1(gold, runs, task, by) for runs in (a, b))
    rng = np.random.default_rng(task.eval.seed)
    delta = _drawn(left_samples, rng) - _drawn(right_samples, rng)
    low, high = interval(delta, task.eval.confidence)
    return {"value": round(float(left.mean() - right.mean()), 6), "low": round(low, 6), "high": round(high, 6)}


def _drawn(samples: Floats, rng: np.random.Generator) -> Floats:
    """Mean over seeds drawn with replacement, shape (resamples,), of samples of shape (seeds, resamples)."""
    seeds, resamples = samples.shape
    rows = rng.integers(0, seeds, (seeds, resamples))
    return np.asarray(samples[rows, np.arange(resamples)].mean(axis=0), dtype=np.float64)


def _f1(gold: Sequence[Example], runs: Runs, task: Task, by: Scheme) -> tuple[Floats, Floats]:
    """F1 of each run, shape (seeds,), and under every resample, shape (seeds, resamples); undefined is 0."""
    roles = [r.name for r in task.roles]
    normalise = normaliser(task.normaliser)
    weights = resample_weights(len(gold), task.eval.resamples, task.eval.seed)
    tables = [count(gold, run, roles, by, normalise) for run in runs]
    points = np.array([float(micro(t.sum(axis=0))[2]) for t in tables])
    samples = np.stack([bootstrap(t, weights, micro)[:, 2] for t in tables])
    return np.nan_to_num(points), np.nan_to_num(samples)

"""The quality of one set of predictions against gold: overall, per role, per slice, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.match import Counts, Scheme, count
from eval.metrics import bootstrap, exact, interval, macro_f1, micro, prf, resample_weights
from task.labels import Example
from task.normalize import normaliser
from task.spec import Task


def traffic_slices(gold: Sequence[Example], log: Sequence[Example], task: Task) -> list[str]:
    """`head`, `torso` or `tail` of each gold row by its query's traffic rank in the log; unlogged queries are tail."""
    normalise = normaliser(task.normaliser)
    ranked = sorted(log, key=lambda x: -x.count)
    ranks = {normalise(x.query): i for i, x in reversed(list(enumerate(ranked)))}
    out = []
    for row in gold:
        rank = ranks.get(normalise(row.query), len(ranked))
        out.append("head" if rank < task.eval.head else "torso" if rank < task.eval.torso else "tail")
    return out


def quality(
    gold: Sequence[Example], predicted: Sequence[Example], task: Task, slices: Sequence[str] | None = None
) -> dict[str, Any]:
    """Everything that the report says about one set of predictions.

    Args:
        gold: The truth.
        predicted: The same queries in the same order; a failed query is one with no labels.
        slices: A name per row.

    Returns:
        JSON-ready: `value` and `span` (micro, macro, exact match, per role), `slices` (micro by value per slice).
        Every figure is `{"value", "low", "high"}`, None where it is not defined.
    """
    roles = [r.name for r in task.roles]
    normalise = normaliser(task.normaliser)
    weights = resample_weights(len(gold), task.eval.resamples, task.eval.seed)
    out: dict[str, Any] = {"rows": len(gold)}
    tables: dict[Scheme, Counts] = {}
    for scheme in ("value", "span"):
        tables[scheme] = count(gold, predicted, roles, scheme, normalise)
        out[scheme] = _overall(tables[scheme], weights, roles, task.eval.confidence)
    if slices is not None:
        out["slices"] = {}
        for name in sorted(set(slices)):
            rows = np.array([s == name for s in slices])
            part = tables["value"][rows]
            part_weights = resample_weights(len(part), task.eval.resamples, task.eval.seed)
            out["slices"][name] = {
                "rows": len(part), **_micro(part, part_weights, task.eval.confidence),
                "exact_match": _mean(exact(part), part_weights, task.eval.confidence),
            }
    return out


def _overall(table: Counts, weights: Any, roles: Sequence[str], level: float) -> dict[str, Any]:
    macro = bootstrap(table, weights, macro_f1)
    per_role = {}
    samples = bootstrap(table, weights, lambda sums: np.stack(prf(sums), axis=-1))
    point = np.stack(prf(table.sum(axis=0)), axis=-1)
    for i, role in enumerate(roles):
        support = int(table[:, i, 0].sum() + table[:, i, 2].sum())
        figures = {
            name: _figure(point[i, k], interval(samples[:, i, k], level))
            for k, name in enumerate(("precision", "recall", "f1"))
        }
        per_role[role] = {"support": support, **figures}
    return {
        **_micro(table, weights, level),
        "macro_f1": _figure(float(macro_f1(table.sum(axis=0))), interval(macro, level)),
        "exact_match": _mean(exact(table), weights, level),
        "roles": per_role,
    }


def _micro(table: Counts, weights: Any, level: float) -> dict[str, Any]:
    point, samples = micro(table.sum(axis=0)), bootstrap(table, weights, micro)
    names = ("precision", "recall", "f1")
    return {n: _figure(point[k], interval(samples[:, k], level)) for k, n in enumerate(names)}


def _mean(values: Any, weights: Any, level: float) -> dict[str, float | None]:
    if not len(values):
        return _figure(float("nan"), (float("nan"), float("nan")))
    samples = (weights @ values.astype(np.float32)) / len(values)
    return _figure(float(values.mean()), interval(samples.astype(np.float64), level))


def _figure(value: float, bounds: tuple[float, float]) -> dict[str, float | None]:
    numbers = {"value": float(value), "low": bounds[0], "high": bounds[1]}
    return {k: None if np.isnan(v) else round(v, 6) for k, v in numbers.items()}


def paired_difference(
    gold: Sequence[Example], a: Sequence[Example], b: Sequence[Example], task: Task
) -> Mapping[str, float | None]:
    """Micro-F1 by value of `a` minus `b`, with a paired bootstrap interval (shared resampling indices)."""
    roles = [r.name for r in task.roles]
    normalise = normaliser(task.normaliser)
    weights = resample_weights(len(gold), task.eval.resamples, task.eval.seed)
    tables = [count(gold, side, roles, "value", normalise) for side in (a, b)]
    points = [float(micro(t.sum(axis=0))[2]) for t in tables]
    left, right = (bootstrap(t, weights, micro)[:, 2] for t in tables)
    return _figure(points[0] - points[1], interval(left - right, task.eval.confidence))


def label_agreement(a: Sequence[Example], b: Sequence[Example]) -> float:
    """Share of labels that two sets of predictions have in common: |A ∩ B| / |A ∪ B| over (row, label)."""
    left = {(i, x.key) for i, row in enumerate(a) for x in row.labels}
    right = {(i, x.key) for i, row in enumerate(b) for x in row.labels}
    return len(left & right) / len(left | right) if left | right else 1.0

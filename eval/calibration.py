"""Calibration of predicted probabilities: discrimination, calibration error, and precision at a threshold.

Errors within a query are correlated, so every interval resamples queries, not labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from eval.bootstrap import estimate, percentile
from eval.quality_schema import Calibration, ReliabilityBin, RiskPoint

Floats = npt.NDArray[np.float64]
Statistic = Literal["auroc", "ece", "brier", "precision", "coverage"]


def auroc(confidence: Floats, right: Floats, weights: Floats | None = None) -> float:
    """Probability that a right label has a higher confidence than a wrong one, ties count half (Hanley, McNeil 1982).

    NaN where all are right or all are wrong.
    """
    weights = np.ones(len(right)) if weights is None else weights
    order = np.argsort(confidence, kind="stable")
    score, good = confidence[order], (right * weights)[order]
    bad = ((1 - right) * weights)[order]
    if good.sum() == 0 or bad.sum() == 0:
        return float("nan")
    first = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])
    good_tied, bad_tied = np.add.reduceat(good, first), np.add.reduceat(bad, first)
    below = np.cumsum(bad_tied) - bad_tied
    return float((good_tied * (below + bad_tied / 2)).sum() / (good.sum() * bad.sum()))


def brier(confidence: Floats, right: Floats, weights: Floats | None = None) -> float:
    """Mean squared error of the probability against the outcome, 0 or 1 (Brier 1950)."""
    return float(np.average((confidence - right) ** 2, weights=weights))


def bins_of(confidence: Floats, bins: int = 15) -> list[npt.NDArray[np.int64]]:
    """Rows in `bins` bins of equal mass by confidence; equal confidences share a bin."""
    order = np.argsort(confidence, kind="stable")
    score = confidence[order]
    edges = np.linspace(0, len(order), bins + 1).round().astype(int)[1:-1]
    cuts = sorted({int(np.searchsorted(score, score[e], "left")) for e in edges if e < len(order)})
    return [part for part in np.split(order, cuts) if len(part)]


def ece(confidence: Floats, right: Floats, weights: Floats | None = None, bins: int = 15) -> float:
    """Expected calibration error over bins of equal mass (Nguyen and O'Connor 2015).

    Equal-width bins leave most of a good model's rows in one bin and hide its errors.
    """
    weights = np.ones(len(right)) if weights is None else weights
    total = weights.sum()
    gap = 0.0
    for part in bins_of(confidence, bins):
        w = weights[part]
        if w.sum():
            gap += abs(float((w * (confidence[part] - right[part])).sum()))
    return gap / float(total)


def reliability(confidence: Floats, right: Floats, bins: int = 10) -> list[ReliabilityBin]:
    """Mean confidence and accuracy of each equal-mass bin, lowest confidence first."""
    return [
        {"rows": len(p), "confidence": round(float(confidence[p].mean()), 6), "right": round(float(right[p].mean()), 6)}
        for p in bins_of(confidence, bins)
    ]


def risk_coverage(confidence: Floats, right: Floats, points: int = 100) -> list[RiskPoint]:
    """Selective risk: the error rate of the most confident labels against their share (El-Yaniv and Wiener 2010).

    There is a point only where the confidence changes: a threshold cannot separate equal confidences.
    """
    if not len(confidence):
        return []
    order = np.argsort(-confidence, kind="stable")
    score = confidence[order]
    wrong = np.cumsum(1 - right[order])
    ends = np.flatnonzero(np.r_[score[1:] != score[:-1], True])
    if len(ends) > points:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, points).round().astype(int))]
    return [
        {
            "threshold": round(float(score[e]), 6), "coverage": round((e + 1) / len(score), 6),
            "risk": round(float(wrong[e]) / (e + 1), 6),
        }
        for e in ends
    ]


def threshold_for(
    confidence: Floats, right: Floats, precision: float, level: float = 0.9
) -> float | None:
    """The lowest threshold at which the labels kept are right with at least `precision`.

    The precision at a threshold is taken at its lower confidence bound (Clopper and Pearson 1934, one-sided, `level`),
    so that a few labels that are right by chance do not set it, and it generalises beyond the calibration rows.

    Returns:
        None where no threshold reaches it.
    """
    from scipy.stats import beta

    if not len(confidence):
        return None
    order = np.argsort(-confidence, kind="stable")
    score = confidence[order]
    good = np.cumsum(right[order])
    ends = np.flatnonzero(np.r_[score[1:] != score[:-1], True])
    kept = ends + 1.0
    lower = beta.ppf(1 - level, np.maximum(good[ends], 1e-9), kept - good[ends] + 1)
    reached = np.flatnonzero(lower >= precision)
    return float(score[ends[reached[-1]]]) if len(reached) else None


def assess(
    confidence: Sequence[float], right: Sequence[bool], groups: Sequence[int], *,
    threshold: float | None = None, resamples: int = 2_000, seed: int = 0, level: float = 0.95,
) -> Calibration:
    """All calibration figures of a set of labels.

    Args:
        confidence: Predicted probability of each label.
        right: Whether it was right.
        groups: The query that it belongs to; queries are resampled.
        threshold: Add precision and coverage at this threshold.
    """
    p, y = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    statistics: dict[Statistic, Callable[[Floats], float]] = {
        "auroc": lambda w: auroc(p, y, w), "ece": lambda w: ece(p, y, w), "brier": lambda w: brier(p, y, w),
    }
    if threshold is not None:
        kept = (p >= threshold).astype(np.float64)
        statistics["precision"] = lambda w: float((w * kept * y).sum() / d) if (d := (w * kept).sum()) else np.nan
        statistics["coverage"] = lambda w: float((w * kept).sum() / w.sum())
    out: Calibration = {"labels": len(p), "right": int(y.sum()), "threshold": threshold}
    if not len(p):
        return out
    rng = np.random.default_rng(seed)
    queries = int(member.max()) + 1
    draws: dict[Statistic, Floats] = {name: np.empty(resamples) for name in statistics}
    for i in range(resamples):
        weights = np.bincount(rng.integers(0, queries, queries), minlength=queries)[member].astype(np.float64)
        for name, statistic in statistics.items():
            draws[name][i] = statistic(weights) if weights.sum() else np.nan
    ones = np.ones(len(p))
    for name, statistic in statistics.items():
        value = statistic(ones)
        low, high = percentile(draws[name], level)
        out[name] = estimate(value, low, high)
    out["reliability"] = reliability(p, y)
    out["risk_coverage"] = risk_coverage(p, y)
    return out

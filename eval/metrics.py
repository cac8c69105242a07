"""Precision, recall and F1 from counts, with bootstrap intervals over queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.match import Counts

Floats = npt.NDArray[np.float64]


def prf(counts: npt.NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 over the last axis (TP, FP, FN); 0/0 is NaN, nothing right is 0."""
    tp, fp, fn = (counts[..., i].astype(np.float64) for i in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall, f1 = tp / (tp + fp), tp / (tp + fn), 2 * tp / (2 * tp + fp + fn)
    return precision, recall, f1


def micro(counts: npt.NDArray[Any]) -> Floats:
    """Micro precision, recall, F1: shape (..., 3) from counts of shape (..., roles, 3)."""
    return np.stack(prf(counts.sum(axis=-2)), axis=-1)


def macro_f1(counts: npt.NDArray[Any]) -> Floats:
    """Mean F1 over the roles that occur in gold or prediction."""
    _, _, f1 = prf(counts)
    present = ~np.isnan(f1)
    total = np.where(present, f1, 0.0).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / present.sum(axis=-1), dtype=np.float64)


def exact(counts: Counts) -> Floats:
    """1.0 for every query without a false positive or a false negative."""
    return np.asarray(counts[:, :, 1:].sum(axis=(1, 2)) == 0, dtype=np.float64)


def resample_weights(rows: int, resamples: int, seed: int) -> npt.NDArray[np.float32]:
    """How often each query is drawn in each bootstrap resample: shape (resamples, rows); shared by paired tests."""
    rng = np.random.default_rng(seed)
    out = np.empty((resamples, rows), dtype=np.float32)
    for i in range(resamples):
        out[i] = np.bincount(rng.integers(0, rows, rows), minlength=rows)
    return out


def interval(samples: Floats, level: float) -> tuple[float, float]:
    """Percentile interval (Efron and Tibshirani 1993), NaN samples left out."""
    kept = samples[~np.isnan(samples)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap(
    counts: Counts, weights: npt.NDArray[np.float32], statistic: Callable[[Floats], Floats]
) -> Floats:
    """A statistic of summed counts under every resample.

    Args:
        counts: Shape (queries, roles, 3).
        weights: Shape (resamples, queries), from `resample_weights`.
        statistic: Maps (resamples, roles, 3) to (resamples, ...).
    """
    flat = counts.reshape(len(counts), -1).astype(np.float32)
    sums = (weights @ flat).reshape(len(weights), *counts.shape[1:])
    return statistic(sums.astype(np.float64))

"""Precision, recall and F1 from counts of true positives, false positives and false negatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from eval.bootstrap import Floats, Statistic
from eval.matching import Counts


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
    """Mean F1 over the roles with support: without support recall is not defined."""
    _, _, f1 = prf(counts)
    present = counts[..., 0] + counts[..., 2] > 0
    total = np.where(present, f1, 0.0).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / present.sum(axis=-1), dtype=np.float64)


def weighted_f1(counts: npt.NDArray[Any]) -> Floats:
    """Mean F1 over roles, weighted by support."""
    _, _, f1 = prf(counts)
    support = (counts[..., 0] + counts[..., 2]).astype(np.float64)
    total = np.where(support > 0, f1 * support, 0.0).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / support.sum(axis=-1), dtype=np.float64)


def exact(counts: Counts) -> npt.NDArray[np.int64]:
    """1 for every query without a false positive or a false negative."""
    return np.asarray(counts[:, :, 1:].sum(axis=(1, 2)) == 0, dtype=np.int64)


def of_table(statistic: Statistic, roles: int) -> Statistic:
    """A statistic of (..., roles, 3) as one of flattened sums; further columns are ignored."""
    return lambda sums: statistic(sums[..., : 3 * roles].reshape(*sums.shape[:-1], roles, 3))


MICRO = {name: (lambda counts, k=k: micro(counts)[..., k]) for k, name in enumerate(("precision", "recall", "f1"))}

"""The cluster bootstrap over queries, drawn efficiently because few rows of counts are distinct.

Errors within a query are correlated, so whole queries are resampled. A statistic of summed counts depends only on how
often each distinct row of counts is drawn, and of a hundred thousand rows a few thousand are distinct: frequent ones
are drawn together from a multinomial distribution, rare ones row by row. The distribution is the same as with drawing
all rows one by one.

To compare systems on shared draws, put their counts side by side into one matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from eval.quality_schema import Estimate

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
Interval = Literal["percentile", "bca"]

# A multinomial draw for one distinct row costs about as much as this many draws of single rows.
_FREQUENT: Final = 32
_BLOCK: Final = 1 << 21  # weights in memory at a time
_CACHED: Final = 1 << 15  # rows drawn at a time


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Sums of a matrix of counts under resampling of its rows.

    Attributes:
        total: The sum of all rows, shape (columns,).
        samples: The sum of each resample, shape (resamples, columns).
        kinds: The distinct rows, shape (kinds, columns).
        frequency: How often each occurs, shape (kinds,).
    """

    total: Floats
    samples: Floats
    kinds: Floats
    frequency: npt.NDArray[np.int64]

    def estimate(self, statistic: Statistic, level: float, method: Interval = "percentile") -> Estimate:
        """The statistic of all rows with its confidence interval; None where it is not defined."""
        point = float(statistic(self.total))
        if method == "percentile":
            low, high = percentile(statistic(self.samples), level)
        else:
            without = statistic(self.total - self.kinds)
            low, high = bca(point, statistic(self.samples), without, self.frequency, level)
        return estimate(point, low, high)


def draw(counts: npt.NDArray[Any], *, resamples: int, seed: int) -> Bootstrap:
    """Resample all rows with replacement, `resamples` times.

    Args:
        counts: Integers, shape (rows, ...); the other axes are flattened into columns.
    """
    matrix = counts.reshape(len(counts), -1) if len(counts) else np.zeros((0, int(np.prod(counts.shape[1:]))))
    first, frequency = _distinct(matrix)
    kinds = matrix[first].astype(np.float64)
    rng = np.random.default_rng(seed)
    samples = np.zeros((resamples, matrix.shape[1]))
    if len(matrix):
        frequent = frequency >= _FREQUENT
        places = np.flatnonzero(~frequent)
        of_row = np.repeat(np.arange(len(places)), frequency[places])
        drawn = rng.multinomial(len(matrix), np.append(frequency[frequent], len(of_row)) / len(matrix), size=resamples)
        samples += drawn[:, :-1].astype(np.float64) @ kinds[frequent]
        step = max(1, _BLOCK // max(1, len(places)))
        for at in range(0, resamples if len(places) else 0, step):
            samples[at : at + step] += _weights(of_row, drawn[at : at + step, -1], len(places), rng) @ kinds[places]
    return Bootstrap(matrix.sum(axis=0).astype(np.float64), samples, kinds, frequency)


def _weights(
    of_row: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64], kinds: int, rng: np.random.Generator
) -> Floats:
    """How often each rare distinct row is drawn, shape (resamples, kinds).

    Works on blocks of resamples: large enough for numpy to be efficient, small enough for the processor's cache.

    Args:
        of_row: The distinct row (kind) of each row.
        wanted: Number of rows to draw for each resample.
    """
    out = np.empty((len(wanted), kinds))
    step = max(1, _CACHED // len(of_row))
    for at in range(0, len(wanted), step):
        part = wanted[at : at + step]
        places = rng.integers(0, len(of_row), int(part.sum()), dtype=np.int32)  # half the random bits of int64
        cell = of_row.take(places)
        if len(part) > 1:
            cell += np.repeat(np.arange(len(part)) * kinds, part)
        out[at : at + step] = np.bincount(cell, minlength=len(part) * kinds).reshape(len(part), kinds)
    return out


def _distinct(matrix: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Index of the first occurrence of each distinct row, and its frequency.

    Rows are distinguished by a random linear hash modulo 2^64, and the result is verified: sorting whole rows would
    dominate the run time.
    """
    factors = np.random.default_rng(0x11B).integers(1, 2**63, matrix.shape[1], dtype=np.int64) | 1
    with np.errstate(over="ignore"):
        hashed = (matrix.astype(np.int64) * factors).sum(axis=1)
    _, first, member, frequency = np.unique(hashed, return_index=True, return_inverse=True, return_counts=True)
    if not np.array_equal(matrix[first][member], matrix):  # a hash collision, practically never
        _, first, frequency = np.unique(matrix, axis=0, return_index=True, return_counts=True)
    # The order depends only on which rows are equal: with one seed, matrices with equal rows in the same places are
    # drawn alike.
    order = np.lexsort((first, -frequency))
    return first[order], frequency[order]


def percentile(samples: Floats, level: float) -> tuple[float, float]:
    """Percentile interval (Efron and Tibshirani 1993, chapter 13) without NaN samples."""
    kept = samples[~np.isnan(samples)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bca(
    point: float, samples: Floats, without: Floats, frequency: npt.NDArray[np.int64], level: float
) -> tuple[float, float]:
    """Bias-corrected and accelerated interval (Efron 1987; Efron and Tibshirani 1993, chapter 14).

    Args:
        point: The statistic of all rows.
        samples: The statistic of each resample.
        without: The statistic without one row of each kind (jackknife).
        frequency: How many rows of each kind there are.

    Returns:
        NaN twice where the statistic is not defined; the percentile interval where all resamples lie on one side.
    """
    from scipy.stats import norm

    kept = samples[~np.isnan(samples)]
    known = ~np.isnan(without)
    if not len(kept) or not known.any() or np.isnan(point):
        return float("nan"), float("nan")
    below = (np.sum(kept < point) + 0.5 * np.sum(kept == point)) / len(kept)
    if not 0 < below < 1:
        return percentile(samples, level)
    bias = norm.ppf(below)
    weights = frequency[known].astype(np.float64)
    away = np.average(without[known], weights=weights) - without[known]
    squares = float((weights * away**2).sum())
    acceleration = float((weights * away**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    z = bias + norm.ppf([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(kept, norm.cdf(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


def estimate(value: float, low: float, high: float) -> Estimate:
    """An estimate with six decimals; None for NaN."""
    return {"value": _rounded(value), "low": _rounded(low), "high": _rounded(high)}


def _rounded(number: float) -> float | None:
    return None if np.isnan(number) else round(float(number), 6)

"""Significance tests of two systems on the same queries, and the minimum detectable effect of a set of queries.

All tests are paired: the difficulty of a query affects both systems and cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.bootstrap import Bootstrap, Floats, Statistic, draw, estimate, percentile
from eval.bootstrap import Interval as Method
from eval.quality_schema import Estimate, McNemar


@dataclass(frozen=True, slots=True)
class Paired:
    """Two systems' counts on the same queries, resampled together.

    Attributes:
        drawn: Of the counts of `a` and, after them, those of `b`; shape of each (queries, columns).
        columns: How many each system has.
    """

    drawn: Bootstrap
    columns: int

    @classmethod
    def of(cls, a: npt.NDArray[Any], b: npt.NDArray[Any], *, resamples: int, seed: int) -> Paired:
        """Draw queries; `a` and `b` have the same shape (queries, ...)."""
        if a.shape != b.shape:
            raise ValueError(f"systems with counts of different shapes: {a.shape} and {b.shape}")
        flat = [x.reshape(len(x), -1) for x in (a, b)]
        return cls(draw(np.hstack(flat), resamples=resamples, seed=seed), flat[0].shape[1])

    def difference(self, statistic: Statistic) -> Statistic:
        """The statistic of `a` minus that of `b`."""
        return lambda sums: statistic(sums[..., : self.columns]) - statistic(sums[..., self.columns :])

    def estimate(self, statistic: Statistic, level: float, method: Method = "percentile") -> Estimate:
        """The difference with its interval."""
        return self.drawn.estimate(self.difference(statistic), level, method)

    def p_value(self, statistic: Statistic) -> float:
        """Two-sided bootstrap p-value: twice the smaller tail beyond zero (Efron and Tibshirani 1993, 16.4).

        Consistent with the percentile interval: below 0.05 where the 95 % interval excludes zero. At least
        2/(resamples + 1), the resolution of the resampling.
        """
        samples = self.difference(statistic)(self.drawn.samples)
        samples = samples[~np.isnan(samples)]
        tail = min(int((samples <= 0).sum()), int((samples >= 0).sum())) + 1
        return min(1.0, 2 * tail / (len(samples) + 1))

    def randomisation(self, statistic: Statistic, *, rounds: int, seed: int) -> float:
        """Two-sided p-value of approximate randomisation (Noreen 1989).

        Under the null hypothesis the answers of the systems are exchangeable. Each round swaps the answers of every
        query with probability 0.5; p is the share of rounds with a difference at least as large as the observed one.
        Queries with equal counts are swapped together by a binomial draw.
        """
        a, b = self.drawn.kinds[:, : self.columns], self.drawn.kinds[:, self.columns :]
        moved = b - a
        differ = moved.any(axis=1)
        swapped = np.random.default_rng(seed).binomial(self.drawn.frequency[differ], 0.5, (rounds, int(differ.sum())))
        gain = swapped.astype(np.float64) @ moved[differ]
        total_a, total_b = self.drawn.total[: self.columns], self.drawn.total[self.columns :]
        seen = abs(float(statistic(total_a) - statistic(total_b)))
        drawn = np.abs(statistic(total_a + gain) - statistic(total_b - gain))
        return float(((drawn >= seen - 1e-12).sum() + 1) / (rounds + 1))


def mcnemar(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> McNemar:
    """McNemar's test of exact matches (McNemar 1947, mid-p of Fagerland et al. 2013).

    Args:
        a: 1 where system `a` is right, shape (queries,).
        b: The same of system `b`.
    """
    from scipy.stats import binom

    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    n = only_a + only_b
    if n == 0:
        return {"only_a": 0, "only_b": 0, "p": 1.0}
    low = min(only_a, only_b)
    p = min(1.0, float(2 * binom.cdf(low, n, 0.5) - binom.pmf(low, n, 0.5)))
    return {"only_a": only_a, "only_b": only_b, "p": p}


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values for multiple comparisons (Holm 1979)."""
    ordered = sorted(p_values, key=lambda k: p_values[k])
    out: dict[str, float] = {}
    worst = 0.0
    for rank, name in enumerate(ordered):
        worst = max(worst, min(1.0, (len(ordered) - rank) * p_values[name]))
        out[name] = worst
    return {name: out[name] for name in p_values}


def detectable(samples: Floats, level: float, power: float = 0.8) -> float:
    """Minimum detectable effect of a two-sided test at this level and power, from the resamples of a difference.

    (z of the level + z of the power) times the standard error (Card et al. 2020 on why to report it).
    """
    from scipy.stats import norm

    kept = samples[~np.isnan(samples)]
    if len(kept) < 2:
        return float("nan")
    return float((norm.ppf((1 + level) / 2) + norm.ppf(power)) * kept.std(ddof=1))


def not_inferior(difference: Estimate, margin: float) -> bool:
    """Non-inferiority: whether the whole interval of `a` minus `b` lies above -margin.

    An undefined difference fails.
    """
    low = difference["low"]
    return low is not None and low > -margin


def pooled(points: npt.NDArray[Any], samples: npt.NDArray[Any], level: float) -> tuple[Estimate, float | None]:
    """The mean of repeated runs, with queries and runs as sources of variance.

    Args:
        points: A figure of each run, shape (runs,).
        samples: The same under every resample of the queries, shape (runs, resamples), drawn together.

    Returns:
        The mean, whose interval adds the variance over queries and that over runs, the latter with Student's t
        (Bouthillier et al. 2021); and the standard deviation over runs, None for one run.
    """
    from scipy.stats import t

    value = float(np.mean(points))
    means = np.nanmean(samples, axis=0)
    low, high = percentile(means, level)
    if len(points) < 2:
        return estimate(value, low, high), None
    spread = float(np.std(points, ddof=1))
    runs = float(t.ppf((1 + level) / 2, len(points) - 1)) * spread / math.sqrt(len(points))
    down, up = (math.hypot(x, runs) for x in (value - low, high - value))
    return estimate(value, value - down, value + up), round(spread, 6)



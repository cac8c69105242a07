"""How far traffic has moved between two periods, with the distinct query as the unit of chance.

The requests of one query are no independent draws: a dish that is on television is asked for by thousands. So chance is
modelled by exchanges, one for each distinct query: if nothing has moved, its requests of one period might as well have
been those of the other. Each draw exchanges a random half of the queries and computes the figure anew, shares and all
(a permutation test by clusters). Shuffling requests instead would take every burst for drift; and so would an exchange
of shares, because the burst of one query lowers those of all others together. So the periods are first brought to the
scale on which the queries without a burst are asked for equally often (`_scale`). The periods may have different sizes,
and the weights of a sample (Horvitz and Thompson 1952) need no model of their own. Intervals are those of a wild
bootstrap, with random signs by query about the observed difference (Wu 1986; Liu 1988; for clusters Cameron, Gelbach
and Miller 2008).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from eval.bootstrap import estimate, percentile
from eval.quality_schema import Estimate
from eval.significance import detectable

Floats = npt.NDArray[np.float64]

DRAWS: Final = 1_999
LEVEL: Final = 0.95
_BLOCK: Final = 1 << 23  # signs in memory at a time
_BURSTS, _TRIMS = 0.02, 3
_EMPTY: Final = 1e-6  # of a period's size: what is left of it are rounding errors


@dataclass(frozen=True, slots=True)
class Shift:
    """A figure of the traffic in two periods.

    Attributes:
        reference: Its value in the reference period; None for a distance.
        current: Its value in the current period, or the distance between both.
        change: The difference with its interval; of a distance what chance does not explain.
        p: Two-sided: how often chance alone gives as much.
        detectable: The smallest change that these samples would show (80 % power, α 0.05); None for a distance.
    """

    reference: float | None
    current: float
    change: Estimate
    p: float
    detectable: float | None


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums of one period by distinct query, the unit of chance.

    Attributes:
        weights: Requests for which a figure is known, shape (units, figures).
        values: The figure summed over them, shape (units, figures).
    """

    weights: Floats
    values: Floats


def shifts(reference: Totals, current: Totals, *, draws: int = DRAWS, seed: int = 0) -> list[Shift]:
    """The change of each mean: of a share, a probability.

    Args:
        reference: Row by row of the same units as `current`; zeros where a unit was not asked for.

    Returns:
        One for each figure; where a period has no weight for it everything is NaN or None, and p is 1.

    Raises:
        ValueError: The shapes differ.
    """
    shapes = {x.shape for t in (reference, current) for x in (t.weights, t.values)}
    if len(shapes) != 1:
        raise ValueError(f"periods of different shapes: {sorted(shapes)}")
    sizes = [t.weights.sum(axis=0) for t in (reference, current)]
    with np.errstate(invalid="ignore", divide="ignore"):
        before, after = (t.values.sum(axis=0) / s for t, s in zip((reference, current), sizes, strict=True))
        # What a unit adds to the difference about each period's own mean; and what of it an exchange moves.
        own = _parts(current, sizes[1], after) - _parts(reference, sizes[0], before)
    figures = own.shape[1]
    scale = np.array([_scale(reference.weights[:, k], current.weights[:, k]) for k in range(figures)])
    weights = (current.weights - scale * reference.weights) / 2
    values = (current.values - scale * reference.values) / 2
    drawn = flipped(np.nan_to_num(np.hstack([weights, values, own])), draws=draws, seed=seed)
    null = _exchanged(
        drawn[:, figures : 2 * figures], drawn[:, :figures],
        total=(current.values + scale * reference.values).sum(axis=0) / 2, size=(sizes[1] + scale * sizes[0]) / 2,
    )
    return [
        _shift(float(before[k]), float(after[k]), null[:, k], drawn[:, 2 * figures + k]) for k in range(figures)
    ]


def _scale(reference: Floats, current: Floats) -> float:
    """How many times as often queries are asked for in the current period, those with the largest bursts left out.

    The ratio of both sums without the `_BURSTS` of the units whose difference is largest at the ratio before: a trimmed
    ratio, as for counts of genes, of which a few that are very active must not make all others look less so (Robinson
    and Oshlack 2010).

    Args:
        reference: Requests of each unit, shape (units,).
        current: The same of the current period.
    """
    left_out = max(1, round(_BURSTS * len(reference)))
    kept = np.arange(len(reference))
    found = 1.0
    for _ in range(_TRIMS + 1):
        sums = float(reference[kept].sum()), float(current[kept].sum())
        if min(sums) <= 0:  # nothing in common: any scale is as good
            break
        found = sums[1] / sums[0]
        kept = np.argsort(np.abs(current - found * reference))[:-left_out]
    return found


def _exchanged(moved: Floats, of_size: Floats, *, total: Floats, size: Floats | float) -> Floats:
    """The difference of the means of both periods after exchanges of units, by draw.

    Args:
        moved: Half of what exchanges leave of the difference of the sums.
        of_size: The same of the sizes.
        total: The mean of both sums.
        size: The mean of both sizes.

    Returns:
        NaN where the exchanges leave a period without any unit.
    """
    first, second = (np.where(np.abs(s) < _EMPTY * size, np.nan, s) for s in (size + of_size, size - of_size))
    found: Floats = (total + moved) / first - (total - moved) / second
    return found


def _parts(period: Totals, size: Floats, mean: Floats) -> Floats:
    return (period.values - mean * period.weights) / size


def _shift(before: float, after: float, null: Floats, own: Floats) -> Shift:
    change = after - before
    if np.isnan(change):
        return Shift(before, after, estimate(np.nan, np.nan, np.nan), 1.0, None)
    low, high = percentile(change + own, LEVEL)
    p = _p_value(np.nan_to_num(np.abs(null), nan=np.inf), abs(change))  # what is not known may be as large
    return Shift(before, after, estimate(change, low, high), p, detectable(own, LEVEL))


def distance(
    features: npt.NDArray[np.float32], reference: Floats, current: Floats, *, draws: int = DRAWS, seed: int = 0
) -> Shift:
    """Maximum mean discrepancy (Gretton et al. 2012) of the queries of two periods.

    The effect is `|μ - ν| / sqrt(|μ|² + |ν|²)` of the mean features of both periods, with the expectation of `|μ - ν|²`
    under chance subtracted. It is 0 for equal distributions and 1 for ones whose queries have the kernel 0 with each
    other; where a share s of the traffic is replaced by such queries it is about s, and less for more similar ones.

    Args:
        features: Of each unit, shape (units, features): `random_features` of the embeddings.
        reference: Requests of each unit in the reference period, shape (units,).
        current: The same of the current period.

    Returns:
        `current` is the effect and `change` the effect with its interval.
    """
    mu, nu = (w @ features / w.sum() for w in (reference, current))
    scaled = reference * _scale(reference, current)
    half = (current - scaled)[:, None] / 2
    moved = flipped(np.hstack([half * features, half]), draws=draws, seed=seed)
    drawn = np.nan_to_num(_exchanged(
        moved[:, :-1], moved[:, -1:], total=(current + scaled) @ features / 2,
        size=float((current + scaled).sum()) / 2,
    ))
    seen, null = float(((nu - mu) ** 2).sum()), (drawn**2).sum(axis=1)
    expected, scale = float(null.mean()), float(np.sqrt((mu**2).sum() + (nu**2).sum()))

    def effect(squared: Floats) -> Floats:
        found: Floats = np.sqrt(np.maximum(squared, 0.0)) / scale
        return found

    # A draw about the observed difference adds the noise once more.
    again = seen + 2 * drawn @ (nu - mu) + null
    low, high = percentile(effect(again - 2 * expected), LEVEL)
    value = float(effect(np.asarray(seen - expected)))
    return Shift(None, value, estimate(value, low, high), _p_value(null, seen), None)


def random_features(
    embeddings: npt.NDArray[np.float32], *, features: int = 256, seed: int = 0
) -> npt.NDArray[np.float32]:
    """Random Fourier features of a Gaussian kernel (Rahimi and Recht 2007), shape (units, features).

    The bandwidth is half the median distance of pairs of units: with the whole of it, the usual choice (Gretton et al.
    2012, section 8), two queries as far apart as most are would still have the kernel 0.61.

    Args:
        embeddings: Shape (units, dimensions), at least two units.
        features: An even number.
    """
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, len(embeddings), (2, 4_096))
    apart = np.linalg.norm(embeddings[a] - embeddings[b], axis=1)
    bandwidth = float(np.median(apart[apart > 0])) / 2 if (apart > 0).any() else 1.0
    directions = rng.normal(scale=1 / bandwidth, size=(embeddings.shape[1], features // 2)).astype(np.float32)
    projected = embeddings @ directions
    found: npt.NDArray[np.float32] = np.hstack([np.cos(projected), np.sin(projected)]) / np.sqrt(features / 2)
    return found.astype(np.float32)


def flipped(parts: npt.NDArray[np.floating], *, draws: int, seed: int) -> Floats:
    """Sums of rows with random signs, shape (draws, columns).

    Args:
        parts: What each unit adds to a difference, shape (units, columns).
    """
    rng = np.random.default_rng(seed)
    held = np.asarray(parts, dtype=np.float32)
    out = np.empty((draws, held.shape[1]))
    step = max(1, _BLOCK // max(1, len(held)))
    for at in range(0, draws, step):
        size = min(step, draws - at)
        signs = rng.integers(0, 2, (size, len(held)), dtype=np.int8).astype(np.float32) * 2 - 1
        out[at : at + size] = signs @ held
    return out


def _p_value(null: Floats, seen: float) -> float:
    """The share of draws at least as large, the observed one included (Phipson and Smyth 2010)."""
    return float(((null >= seen * (1 - 1e-6)).sum() + 1) / (len(null) + 1))

"""Which queries to label so that as much of the expected error as possible is near a labelled one.

A label teaches the student about queries that are alike. So the gain of a set of picks is that of a facility location
problem, `sum_i mass_i * max_{j in picks} similarity(i, j)`, which is submodular: picking greedily reaches at least
1 - 1/e of the best set of that size (Nemhauser, Wolsey and Fisher 1978). Gains only fall, so that an old one is an
upper bound, and few are computed again for each pick (lazy greedy, Minoux 1978).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

ALIKE: Final = 0.6
"""Cosine from which a label of one query tells something about another; at 1 it tells everything."""
_BLOCK: Final = 64  # candidates whose gains are computed at a time
_ROUNDING: Final = 1e-9  # the same gain differs by less from product to product


@dataclass(frozen=True, slots=True)
class Covered:
    """One pick.

    Attributes:
        row: Of the candidate.
        gain: The mass that it covers beyond the picks before it.
        alike: How many other candidates it covers better than the picks before it.
    """

    row: int
    gain: float
    alike: int


def cover(
    mass: Floats, vectors: Vectors, most: int, *, alike: float = ALIKE, done: Callable[[int], None] = lambda _: None
) -> list[Covered]:
    """Pick greedily.

    Args:
        mass: Of each candidate: its expected errors; at least 0.
        vectors: Of each, with length 1, shape (candidates, dimensions).
        most: Number of picks.
        alike: See `ALIKE`.
        done: Called with 1 for each pick.

    Returns:
        At most `most` picks, the largest gain first; fewer where nothing is left to cover.
    """
    best = np.zeros(len(mass))
    bounds = _first_bounds(mass, vectors, alike)
    picks: list[Covered] = []
    while len(picks) < min(most, len(mass)):
        rows = np.argpartition(-bounds, min(_BLOCK, len(bounds) - 1))[:_BLOCK]
        near = _similarity(vectors, vectors[rows], rows, alike)
        bounds[rows] = mass @ np.maximum(near - best[:, None], 0.0)
        at = int(np.argmax(bounds[rows]))
        row = int(rows[at])
        if bounds[row] <= 0:
            break
        if bounds[row] < bounds.max() * (1 - _ROUNDING):  # of another candidate: its bound is old, perhaps too high
            continue
        better = near[:, at] > best
        picks.append(Covered(row, float(bounds[row]), int(better.sum()) - int(better[row])))
        best = np.maximum(best, near[:, at])
        bounds[row] = 0.0
        done(1)
    return picks


def _first_bounds(mass: Floats, vectors: Vectors, alike: float) -> Floats:
    found = np.zeros(len(mass))
    for at in range(0, len(mass), _BLOCK):
        rows = np.arange(at, min(at + _BLOCK, len(mass)))
        found[rows] = mass @ _similarity(vectors, vectors[rows], rows, alike)
    return found


def _similarity(vectors: Vectors, some: Vectors, rows: npt.NDArray[np.intp], alike: float) -> Floats:
    """What a label of each of `some`, candidates `rows`, tells about each candidate, shape (candidates, some)."""
    near = np.clip((vectors @ some.T - alike) / (1 - alike), 0.0, 1.0).astype(np.float64)
    near[rows, np.arange(len(rows))] = 1.0  # exactly, whatever the rounding of a product is
    return near

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.rounds.coverage import ALIKE, Floats, Vectors, cover


def unit(rows: Floats) -> Vectors:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def kernel(vectors: Vectors) -> Floats:
    found = np.clip((vectors @ vectors.T - ALIKE) / (1 - ALIKE), 0, 1).astype(np.float64)
    np.fill_diagonal(found, 1.0)
    return found


def greedy_gains(mass: Floats, vectors: Vectors, most: int) -> list[float]:
    """The definition, every gain anew for every pick."""
    near, best, gains = kernel(vectors), np.zeros(len(mass)), []
    for _ in range(min(most, len(mass))):
        all_gains = mass @ np.maximum(near - best[:, None], 0)
        row = int(np.argmax(all_gains))
        if all_gains[row] <= 1e-9:
            break
        gains.append(float(all_gains[row]))
        best = np.maximum(best, near[:, row])
    return gains


@given(st.integers(0, 10**6), st.integers(1, 150), st.integers(2, 6), st.integers(1, 30))
def test_the_picks_are_those_of_the_greedy_algorithm(seed: int, size: int, dimensions: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    mass, vectors = rng.exponential(size=size), unit(rng.normal(size=(size, dimensions)))
    found = cover(mass, vectors, most)
    assert [c.gain for c in found] == pytest.approx(greedy_gains(mass, vectors, most), rel=1e-6)
    assert len({c.row for c in found}) == len(found)


def test_a_thousand_spellings_of_one_product_are_one_pick() -> None:
    rng = np.random.default_rng(0)
    one, others = rng.normal(size=32), rng.normal(size=(5, 32))
    spellings = one + 0.02 * rng.normal(size=(1_000, 32))
    vectors = unit(np.vstack([spellings, others]))
    found = cover(np.ones(1_005), vectors, 6)
    assert found[0].row < 1_000
    assert found[0].alike == 999
    assert {c.row for c in found[1:]} == set(range(1_000, 1_005))


def test_what_is_never_wrong_is_not_picked() -> None:
    vectors = unit(np.eye(3))
    assert [c.row for c in cover(np.array([0.0, 2.0, 1.0]), vectors, 3)] == [1, 2]
    assert cover(np.zeros(3), vectors, 3) == []
    assert cover(np.zeros(0), np.zeros((0, 4), np.float32), 3) == []


def test_hundreds_of_equal_gains_come_to_an_end() -> None:
    vectors = unit(np.eye(200))
    assert [c.gain for c in cover(np.full(200, 1 / 3), vectors, 150)] == pytest.approx([1 / 3] * 150)

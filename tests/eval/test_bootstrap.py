"""Intervals that hold what they promise, and the same from frequent, rare and mixed rows."""

from __future__ import annotations

import numpy as np
import pytest

from eval.bootstrap import draw, percentile
from eval.metrics import MICRO, of_table

F1 = of_table(MICRO["f1"], 1)
RECALL = of_table(MICRO["recall"], 1)


def right_or_wrong(rng: np.random.Generator, rows: int, share: float) -> np.ndarray:
    """One label a row, right with this probability: true precision = recall = F1 = share."""
    right = rng.random(rows) < share
    return np.stack([right, ~right, ~right], axis=1).astype(np.int64)[:, None, :]


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_the_interval_holds_a_known_f1_as_often_as_it_says(method: str) -> None:
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(1_000):
        found = draw(right_or_wrong(rng, 300, 0.8), resamples=1_000, seed=trial).estimate(F1, 0.95, method)  # type: ignore[arg-type]
        held += found["low"] <= 0.8 <= found["high"]  # type: ignore[operator]
    assert 0.93 <= held / 1_000 <= 0.97


def test_it_holds_too_where_labels_of_a_query_fall_together_and_rows_differ_in_size() -> None:
    """Each query has one to six labels, all right or all wrong: an interval over labels would be far too narrow."""
    rng = np.random.default_rng(2)
    held = narrow = 0
    for trial in range(1_000):
        size, right = rng.integers(1, 7, 300), rng.random(300) < 0.8
        table = np.stack([size * right, size * ~right, size * ~right], axis=1)[:, None, :]
        found = draw(table, resamples=1_000, seed=trial).estimate(RECALL, 0.95)
        held += found["low"] <= 0.8 <= found["high"]  # type: ignore[operator]
        labels = size.sum()
        half = 1.96 * (0.8 * 0.2 / labels) ** 0.5
        narrow += abs(found["value"] - 0.8) <= half  # type: ignore[operator]
    assert 0.93 <= held / 1_000 <= 0.97
    assert narrow / 1_000 < 0.8


def test_drawing_alike_rows_together_is_drawing_them_one_by_one() -> None:
    """The same moments as the textbook's bootstrap, for rows that are frequent, rare, and both."""
    rng = np.random.default_rng(3)
    for kinds in (3, 400, 5_000):
        matrix = rng.integers(0, 5, (2_000, 4)) if kinds == 3 else np.stack(
            [rng.integers(0, kinds, 2_000) for _ in range(4)], axis=1
        )
        matrix[:1_500] = matrix[0] if kinds == 5_000 else matrix[:1_500]
        fast = draw(matrix, resamples=4_000, seed=0)
        plain = np.stack([matrix[rng.integers(0, 2_000, 2_000)].sum(axis=0) for _ in range(4_000)])
        assert np.array_equal(fast.total, matrix.sum(axis=0))
        error = plain.std(axis=0) / 4_000**0.5
        assert (np.abs(fast.samples.mean(axis=0) - plain.mean(axis=0)) < 6 * error).all()
        assert fast.samples.std(axis=0) == pytest.approx(plain.std(axis=0), rel=0.06)
        assert np.corrcoef(fast.samples.T) == pytest.approx(np.corrcoef(plain.T), abs=0.09)


def test_one_seed_is_one_outcome_and_columns_that_follow_from_others_change_nothing() -> None:
    table = right_or_wrong(np.random.default_rng(4), 500, 0.7)
    assert np.array_equal(draw(table, resamples=100, seed=5).samples, draw(table, resamples=100, seed=5).samples)
    wider = np.concatenate([table.reshape(500, 3), 7 * table.reshape(500, 3)[:, :1]], axis=1)
    assert np.array_equal(draw(wider, resamples=100, seed=5).samples[:, :3], draw(table, resamples=100, seed=5).samples)
    assert not np.array_equal(draw(table, resamples=100, seed=6).samples, draw(table, resamples=100, seed=5).samples)


def test_nothing_to_draw_from_and_nothing_defined() -> None:
    none = np.zeros((0, 1, 3), dtype=np.int64)
    assert draw(none, resamples=10, seed=0).estimate(F1, 0.95) == {"value": None, "low": None, "high": None}
    empty = np.zeros((50, 1, 3), dtype=np.int64)
    assert draw(empty, resamples=10, seed=0).estimate(F1, 0.95, "bca") == {"value": None, "low": None, "high": None}
    sure = right_or_wrong(np.random.default_rng(0), 50, 1.1)
    for method in ("percentile", "bca"):
        assert draw(sure, resamples=10, seed=0).estimate(F1, 0.95, method) == {"value": 1.0, "low": 1.0, "high": 1.0}  # type: ignore[arg-type]


def test_bca_equals_scipys() -> None:
    from scipy.stats import bootstrap as scipys

    rng = np.random.default_rng(6)
    right = (rng.random(120) < 0.93).astype(np.int64)
    table = np.stack([right, 1 - right, 1 - right], axis=1)[:, None, :]
    ours = draw(table, resamples=20_000, seed=0).estimate(RECALL, 0.95, "bca")
    theirs = scipys((right,), np.mean, n_resamples=20_000, method="BCa", rng=0).confidence_interval
    assert ours["low"] == pytest.approx(theirs.low, abs=0.009)  # a step of the statistic is 1/120
    assert ours["high"] == pytest.approx(theirs.high, abs=0.009)


def test_the_percentile_interval_leaves_out_what_is_not_defined() -> None:
    low, high = percentile(np.array([np.nan, *np.linspace(0, 1, 101)]), 0.9)
    assert (low, high) == pytest.approx((0.05, 0.95))

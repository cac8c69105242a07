"""Calibration figures against scikit-learn, and against populations whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.calibration import assess, auroc, bins_of, brier, ece, risk_coverage, threshold_for

PAIRS = st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=2, max_size=60)


def arrays(pairs: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p / 10 for p, _ in pairs]), np.array([float(r) for _, r in pairs])


@given(PAIRS)
def test_auroc_and_brier_equal_scikit_learns(pairs: list[tuple[int, bool]]) -> None:
    from sklearn.metrics import brier_score_loss, roc_auc_score

    p, y = arrays(pairs)
    if 0 < y.sum() < len(y):
        assert auroc(p, y) == pytest.approx(roc_auc_score(y, p))
        weights = np.arange(len(y)) % 3 + 1.0
        assert auroc(p, y, weights) == pytest.approx(roc_auc_score(y, p, sample_weight=weights))
    else:
        assert np.isnan(auroc(p, y))
    assert brier(p, y) == pytest.approx(brier_score_loss(y, p, labels=[0, 1]))


@given(PAIRS)
def test_bins_hold_every_row_once_and_never_part_equals(pairs: list[tuple[int, bool]]) -> None:
    p, _ = arrays(pairs)
    bins = bins_of(p, 7)
    assert sorted(np.concatenate(bins)) == list(range(len(p)))
    held = [set(p[b]) for b in bins]
    assert all(not a & b for i, a in enumerate(held) for b in held[i + 1 :])


def test_a_calibrated_score_has_little_error_and_an_overconfident_one_much() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.3, 1.0, 20_000)
    y = (rng.uniform(size=len(p)) < p).astype(float)
    assert ece(p, y) < 0.02
    assert ece(np.minimum(1.0, p + 0.2), y) > 0.1
    assert risk_coverage(p, y)[0]["risk"] < risk_coverage(p, y)[-1]["risk"]
    assert risk_coverage(p, y)[-1]["coverage"] == 1.0


def test_the_threshold_keeps_its_promise_on_other_rows() -> None:
    """Chosen on 1,500 rows, it must hold on new ones nine times in ten; a point estimate would fail half the time."""
    rng = np.random.default_rng(1)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        p = rng.beta(8, 1, n)
        return p, (rng.uniform(size=n) < p).astype(float)

    kept = 0
    for _ in range(60):
        t = threshold_for(*draw(1_500), precision=0.95)
        assert t is not None
        p, y = draw(20_000)
        kept += y[p >= t].mean() >= 0.95
    assert kept >= 48
    assert threshold_for(np.array([0.9] * 20), np.ones(20), precision=0.98) is None


def test_intervals_resample_queries_not_labels() -> None:
    """Five labels that stand or fall with their query tell no more than one."""
    rng = np.random.default_rng(2)
    right = rng.uniform(size=200) < 0.8
    p = np.where(right, 0.9, 0.5) + rng.normal(0, 0.3, 200)
    one = assess(list(p), list(right), list(range(200)), threshold=0.7, resamples=300)
    five = assess(list(np.repeat(p, 5)), list(np.repeat(right, 5)), list(np.repeat(range(200), 5)), threshold=0.7,
                  resamples=300)
    width = [f["precision"]["high"] - f["precision"]["low"] for f in (one, five)]
    assert width[1] == pytest.approx(width[0], rel=0.25)
    assert one["coverage"]["value"] == five["coverage"]["value"]

"""Tests of two systems: how often they cry wolf, what they find, and textbook values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics import MICRO, of_table
from eval.significance import Paired, detectable, holm, mcnemar, not_inferior, pooled

F1 = of_table(MICRO["f1"], 1)
ROWS = 400


def counts(right: np.ndarray) -> np.ndarray:
    return np.stack([right, ~right, ~right], axis=1).astype(np.int64)[:, None, :]


def systems(rng: np.random.Generator, a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    """Two systems that share most of what makes a query hard."""
    hard = rng.random(ROWS)
    noise = rng.random((2, ROWS)) * 0.2
    return counts(hard + noise[0] < a + 0.1), counts(hard + noise[1] < b + 0.1)


def test_equal_systems_differ_in_one_of_twenty_trials() -> None:
    rng = np.random.default_rng(0)
    trials = 1_000
    alarms = {"bootstrap": 0, "randomisation": 0, "interval": 0}
    for trial in range(trials):
        both = Paired.of(*systems(rng, 0.7, 0.7), resamples=1_000, seed=trial)
        alarms["bootstrap"] += both.p_value(F1) < 0.05
        alarms["randomisation"] += both.randomisation(F1, rounds=1_000, seed=trial) < 0.05
        found = both.estimate(F1, 0.95)
        alarms["interval"] += not found["low"] <= 0 <= found["high"]  # type: ignore[operator]
    assert all(0.03 <= n / trials <= 0.07 for n in alarms.values()), alarms


def test_a_real_difference_is_found_about_as_often_as_its_size_promises() -> None:
    rng = np.random.default_rng(1)
    size = detectable(Paired.of(*systems(rng, 0.7, 0.7), resamples=2_000, seed=0).difference(F1)(
        Paired.of(*systems(rng, 0.7, 0.7), resamples=2_000, seed=0).drawn.samples), 0.95)
    found = sum(
        Paired.of(*systems(rng, 0.7 + size, 0.7), resamples=500, seed=trial).p_value(F1) < 0.05 for trial in range(200)
    )
    assert 0.65 <= found / 200 <= 0.93


def test_a_system_against_itself() -> None:
    one, _ = systems(np.random.default_rng(2), 0.7, 0.7)
    both = Paired.of(one, one, resamples=200, seed=0)
    assert both.estimate(F1, 0.95) == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert both.p_value(F1) == 1.0
    assert both.randomisation(F1, rounds=200, seed=0) == 1.0
    with pytest.raises(ValueError, match="different shapes"):
        Paired.of(one, one[1:], resamples=10, seed=0)


def test_mcnemar_has_the_mid_p_of_the_paper() -> None:
    """Fagerland, Lydersen and Laake 2013, table 1: 1 and 7 discordant pairs have mid-p 0.0391."""
    a, b = np.zeros(21), np.zeros(21)
    a[:1], b[1:8] = 1, 1
    assert mcnemar(a, b) == {"only_a": 1, "only_b": 7, "p": pytest.approx(0.0391, abs=5e-5)}
    assert mcnemar(a, a)["p"] == 1.0


def test_holm_on_a_worked_example() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_value_nor_changes_their_order(p: dict[str, float]) -> None:
    found = holm(p)
    assert list(found) == list(p)
    assert all(p[k] <= found[k] <= 1 or found[k] == 1 for k in p)
    ranked = sorted(p, key=lambda k: p[k])
    assert all(found[a] <= found[b] for a, b in itertools.pairwise(ranked))


def test_not_inferior_asks_for_the_whole_interval() -> None:
    assert not_inferior({"value": -0.002, "low": -0.009, "high": 0.005}, 0.01)
    assert not not_inferior({"value": 0.0, "low": -0.011, "high": 0.011}, 0.01)
    assert not not_inferior({"value": None, "low": None, "high": None}, 0.01)


def test_pooled_runs_hold_the_truth_that_neither_source_of_chance_alone_would() -> None:
    """Runs vary by 0.02 and queries by 0.01: the interval must know of both."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        luck = rng.normal(0, 0.01)  # of this set of queries, the same for all runs
        points = 0.8 + luck + rng.normal(0, 0.02, 4)
        samples = points[:, None] + rng.normal(0, 0.01, 500)[None, :]
        found = pooled(points, samples, 0.95)[0]
        held += found["low"] <= 0.8 <= found["high"]
    assert 0.93 <= held / 400 <= 1.0
    assert pooled(np.array([0.5]), np.full((1, 10), 0.5), 0.95)[1] is None

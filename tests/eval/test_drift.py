from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from eval.drift import Floats, Totals, distance, flipped, random_features, shifts
from eval.drift_verdict import ROLE, kind_of, table, verdict

UNITS, REQUESTS = 400, 4_000
ZIPF = 1 / np.arange(1, UNITS + 1)
ZIPF /= ZIPF.sum()


def totals(weights: Floats, *figures: Floats) -> Totals:
    held = np.repeat(weights[:, None], len(figures), axis=1)
    return Totals(held, held * np.stack(figures, axis=1))


def week(rng: np.random.Generator, shares: Floats = ZIPF) -> Floats:
    return rng.multinomial(REQUESTS, shares).astype(np.float64)


def embeddings(seed: int = 0) -> npt.NDArray[np.float32]:
    found = np.random.default_rng(seed).normal(size=(UNITS, 16))
    unit: npt.NDArray[np.float32] = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_a_change_of_a_share_is_the_difference_of_weighted_means() -> None:
    found = shifts(
        totals(np.array([6.0, 2.0, 2.0]), np.array([1.0, 0.0, 0.0])),
        totals(np.array([1.0, 2.0, 1.0]), np.array([1.0, 0.0, 0.0])), draws=99,
    )[0]
    assert (found.reference, found.current, found.change["value"]) == (0.6, 0.25, -0.35)


def test_weights_of_a_sample_count_as_requests() -> None:
    """A capture that stands for ten requests and ten of one each are the same."""
    rare = np.r_[np.ones(20), np.zeros(380)]
    a, b = (week(np.random.default_rng(s)) for s in (1, 2))
    once = shifts(totals(a, rare), totals(b, rare))[0]
    tenfold = shifts(totals(10 * a, rare), totals(b, rare))[0]
    assert once.change == tenfold.change
    assert once.p == pytest.approx(tenfold.p, abs=0.05)


@pytest.mark.parametrize("bursts", [0.0, 0.5, 1.0])
def test_weeks_of_one_market_in_which_queries_burst_are_no_drift(bursts: float) -> None:
    """Each query's share varies by itself; the first one, a seventh of the traffic, moves those of all others.

    Of 120 pairs of weeks six are expected below 0.05, and with probability 0.999 at most 14.
    """
    rng, features = np.random.default_rng(5), random_features(embeddings())
    rare = np.r_[np.ones(40), np.zeros(360)]
    found = []
    for seed in range(120):
        before, now = (ZIPF * rng.lognormal(0.0, bursts, UNITS) for _ in range(2))
        a, b = (week(rng, shares / shares.sum()) for shares in (before, now))
        found.append((
            distance(features, a, b, draws=199, seed=seed).p,
            shifts(totals(a, rare), totals(b, rare), draws=199, seed=seed)[0].p,
        ))
    assert (np.array(found) <= 0.05).sum(axis=0).max() <= 14


def test_a_burst_of_one_query_is_no_drift_and_a_move_of_many_is() -> None:
    """Both move the same share of the traffic; shuffled requests would call both certain."""
    unseen = np.r_[np.zeros(200), np.ones(200)]
    calm, rng = week(np.random.default_rng(0)), np.random.default_rng(3)
    burst, many = calm.copy(), calm.copy()
    burst[250] += 300
    many[200:] += rng.multinomial(300, np.full(200, 1 / 200))
    of_burst, of_many = (shifts(totals(calm, unseen), totals(w, unseen))[0] for w in (burst, many))
    assert of_burst.current == of_many.current
    assert of_burst.p > 0.05
    assert of_many.p < 0.002


def test_a_figure_that_is_known_in_one_period_only_is_not_judged() -> None:
    none = np.zeros(UNITS)
    known = totals(week(np.random.default_rng(0)), np.ones(UNITS))
    found = shifts(known, totals(none, np.ones(UNITS)), draws=99)[0]
    assert found.p == 1.0
    assert found.change["value"] is None


def test_periods_of_different_units_are_refused() -> None:
    a, b = (totals(np.ones(n), np.ones(n)) for n in (3, 4))
    with pytest.raises(ValueError, match="different shapes"):
        shifts(a, b)


def test_equal_periods_have_no_distance_and_disjoint_ones_the_whole() -> None:
    features = random_features(embeddings())
    weights = week(np.random.default_rng(0))
    same = distance(features, weights, weights, draws=199)
    assert (same.current, same.p) == (0.0, 1.0)
    apart = np.vstack([np.tile(e, (200, 1)) for e in np.eye(2, 16, dtype=np.float32) * 9])
    first = np.r_[np.ones(200), np.zeros(200)]
    whole = distance(random_features(np.float32(0.05) * embeddings() + apart), first, 1 - first, draws=199)
    assert whole.p == 1 / 200
    assert whole.current > 0.8


def test_the_distance_grows_with_the_share_that_is_replaced() -> None:
    two = np.repeat(np.eye(2, 16, dtype=np.float32) * 9, 200, axis=0)
    features = random_features(np.float32(0.05) * embeddings() + two)
    before = np.r_[np.full(200, 5.0), np.zeros(200)]
    found = [distance(features, before, np.r_[np.full(200, 5.0 * (1 - s)), np.full(200, 5.0 * s)]) for s in (0.1, 0.3)]
    assert 0.05 < found[0].current < 0.15 < found[1].current < 0.45
    assert all(f.change["low"] is not None and f.change["low"] <= f.current for f in found)


def test_signs_have_the_variance_of_the_parts() -> None:
    parts = np.random.default_rng(0).normal(size=(300, 2))
    drawn = flipped(parts, draws=4_000, seed=1)
    assert drawn.mean(axis=0) == pytest.approx([0, 0], abs=1.0)
    assert drawn.var(axis=0) == pytest.approx((parts**2).sum(axis=0), rel=0.1)
    assert np.array_equal(drawn, flipped(parts, draws=4_000, seed=1))


def test_calm_weeks_raise_a_false_alarm_in_few_of_a_hundred() -> None:
    """Weeks with bursts: each query's rate varies by a half from week to week, as no shuffling of requests allows."""
    features, alarms, raw = random_features(embeddings(), features=32), 0, 0
    columns = [np.r_[np.ones(20), np.zeros(380)], np.r_[np.zeros(200), np.ones(200)]]
    for trial in range(100):
        rng = np.random.default_rng(trial)
        a, b = (week(rng, (r := ZIPF * rng.gamma(4, 0.25, UNITS)) / r.sum()) for _ in range(2))
        held = np.flatnonzero(a + b)
        x, y = (totals(w[held], *(c[held] for c in columns)) for w in (a, b))
        cached, unseen = shifts(x, y, draws=399, seed=trial)
        apart = distance(features[held], a[held], b[held], draws=399, seed=trial)
        raw += min(p * 3 for p in (cached.p, unseen.p, apart.p)) <= 0.05
        alarms += verdict({"queries": apart, "cache": cached, "unseen words": unseen})["drifted"]
    assert alarms <= raw <= 10  # 5 expected at most; with 5 more than 10 have a chance of 1 in 100


def test_the_sentence_says_whether_a_round_is_worth_its_money() -> None:
    unseen = np.r_[np.zeros(200), np.ones(200)]
    calm = week(np.random.default_rng(0))
    moved = calm.copy()
    moved[200:] += 2
    calls = verdict({"unseen words": shifts(totals(calm, unseen), totals(moved, unseen))[0]})
    assert calls["round"]
    assert calls["sentence"].startswith("A round is worth its money: ")
    assert "words that the student has not seen" in calls["sentence"]
    role = verdict({f"{ROLE}brand": shifts(totals(calm, unseen), totals(moved, unseen))[0]})
    assert (role["drifted"], role["round"]) == (True, False)
    assert "role brand" in role["sentence"]
    still = verdict({"unseen words": shifts(totals(calm, unseen), totals(calm, unseen))[0]}, {"queries": "no texts"})
    assert still["sentence"] == "Nothing has moved beyond what weeks of the same market differ by."
    assert "Not measured: queries (no texts)." in table(still)


def test_a_change_for_the_better_and_one_too_small_to_matter_are_no_drift() -> None:
    unseen = np.r_[np.zeros(200), np.ones(200)]
    calm = 100 * week(np.random.default_rng(0))
    more = calm.copy()
    more[200:] += 200
    better = shifts(totals(more, unseen), totals(calm, unseen))[0]
    assert better.p < 0.01
    assert not verdict({"unseen words": better})["drifted"]
    slight = calm.copy()
    slight[200:] += 8
    small = shifts(totals(calm, unseen), totals(slight, unseen))[0]
    assert small.p < 0.01
    assert small.change["value"] is not None
    assert 0 < small.change["value"] < 0.01
    assert not verdict({"unseen words": small})["drifted"]


def test_a_figure_without_a_rule_is_an_error() -> None:
    with pytest.raises(KeyError, match="no rule for 'weather'"):
        kind_of("weather")

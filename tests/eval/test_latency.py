"""What is made of the samples of load runs: percentiles, validity, saturation, pairs."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from eval.arrivals import ArrivalPlan, poisson
from eval.latency import hdr, over_repeats, percentiles, saturated, slower_by, summarise, times_as_slow, unqueued
from eval.load_samples import Samples, empty

QUERIES = [f"oat milk {i}" for i in range(500)]


def samples_of(latency: np.ndarray, delay: np.ndarray | None = None, rate: float = 10.0) -> tuple[ArrivalPlan, Samples]:
    n = len(latency)
    at = np.arange(n) / rate
    none = np.full(n, np.nan)
    zeros = np.zeros(n, dtype=np.int64)
    found = Samples(
        at, np.full(n, 0.001) if delay is None else delay, latency, none, zeros, np.full(n, 200), zeros.astype(bool),
        zeros.astype(bool), np.zeros(1),
    )
    return ArrivalPlan(at, ["x"] * n, zeros.astype(bool), rate, n / rate), found


def test_percentiles_know_when_there_are_too_few_samples() -> None:
    found = percentiles([i / 1000 for i in range(1, 101)])
    assert found["p50_ms"]["value"] == pytest.approx(50, abs=2)
    assert found["p95_ms"]["value"] == pytest.approx(95, abs=2)
    assert found["p99_ms"] is None


def test_percentile_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = random.Random(0)
    held = 0
    for _ in range(300):
        found = percentiles([rng.random() for _ in range(400)])["p50_ms"]
        held += found["low"] <= 500 <= found["high"]
    assert 0.9 <= held / 300 <= 0.99


def test_over_repeats_the_interval_knows_that_runs_differ() -> None:
    """Runs whose level varies by a tenth: order statistics of all samples would hold the truth far too rarely."""
    rng = np.random.default_rng(0)
    held = naive = 0
    for _ in range(200):
        runs = [np.exp(rng.normal(0, 0.1)) * rng.exponential(0.02, 400) for _ in range(6)]
        truth = 1e3 * 0.02 * math.log(2)
        found, plain = over_repeats(runs)["p50_ms"], percentiles(np.concatenate(runs))["p50_ms"]
        held += found["low"] <= truth <= found["high"]
        naive += plain["low"] <= truth <= plain["high"]
    assert held / 200 >= 0.9
    assert naive / 200 < 0.85
    assert over_repeats(runs[:2])["p50_ms"] == percentiles(np.concatenate(runs[:2]))["p50_ms"]


def test_a_late_generator_makes_the_run_invalid() -> None:
    late = np.where(np.arange(100) % 20 == 0, 0.5, 0.001)
    found = summarise([samples_of(np.full(100, 0.02), late)])
    assert not found["valid"]
    assert "too slow" in found["problem"]
    assert summarise([samples_of(np.full(100, 0.02))])["valid"]
    assert not summarise([samples_of(np.zeros(0))])["valid"]


def test_a_growing_queue_is_saturation_and_a_stall_is_not() -> None:
    rising = samples_of(np.linspace(0.02, 2.0, 400))[1]
    stalled = np.full(400, 0.02)
    stalled[300:330] = 1.0
    assert saturated(rising)
    assert not saturated(samples_of(stalled)[1])
    assert saturated(samples_of(np.where(np.arange(400) % 5 == 0, np.inf, 0.02))[1])
    assert not saturated(samples_of(np.linspace(0.001, 0.006, 400))[1])  # six times as slow, and still fast


def served_in_order(at: np.ndarray, seconds: np.ndarray, still: tuple[float, float] = (0.0, 0.0)) -> Samples:
    """Latencies of a server that answers one request after the other, and stands still from one time to another."""
    free, latency = 0.0, []
    for due, needed in zip(at, seconds, strict=True):
        free = max(free, due)
        free = (still[1] if still[0] <= free < still[1] else free) + needed
        latency.append(free - due)
    return replace(samples_of(np.array(latency))[1], scheduled=at)


def test_a_short_run_of_a_server_that_keeps_up_is_not_saturated() -> None:
    """Five seconds at 16/s: each quarter has some 20 requests, and of a stall of 0.7 s half of them see something."""
    stall = slow = overloaded = 0
    for seed in range(100):
        at = poisson(16, 5, QUERIES, seed).at
        stall += saturated(served_in_order(at, np.full(len(at), 0.02), still=(3.8, 4.5)))
        slow += saturated(served_in_order(at, np.where(at > 3.75, 0.045, 0.02)))  # another program: 72 % busy
        overloaded += saturated(served_in_order(at, np.full(len(at), 1.3 / 16)))
    assert stall <= 25
    assert slow <= 25
    assert overloaded >= 85


def test_goodput_counts_what_came_within_the_slo() -> None:
    latency = np.where(np.arange(100) % 4 == 0, 0.5, 0.02)
    latency[1] = np.inf
    found = summarise([samples_of(latency)], slo_ms=100)["blended"]
    assert (found["within_slo"], found["goodput"]) == (0.74, 7.4)


def test_the_hdr_histogram_can_be_read_by_its_tools() -> None:
    from hdrh.histogram import HdrHistogram

    rng = np.random.default_rng(0)
    seconds = rng.exponential(0.03, 5_000)
    seconds[0] = np.inf
    text = hdr(seconds)
    assert text is not None
    read = HdrHistogram.decode(text)
    assert read.get_total_count() == 5_000
    assert read.get_value_at_percentile(50) / 1e6 == pytest.approx(float(np.median(seconds)), rel=0.01)
    assert read.get_max_value() >= 3_500_000_000


def test_what_makes_a_query_slow_cancels_out_in_pairs() -> None:
    base = np.random.default_rng(1).exponential(0.02, 300)
    assert slower_by(base + 0.005, base) == pytest.approx({"value": 5.0, "low": 5.0, "high": 5.0})
    assert times_as_slow(1.2 * base, base) == pytest.approx({"value": 0.2, "low": 0.2, "high": 0.2})


def test_a_server_beside_itself_is_slower_as_often_as_the_interval_says() -> None:
    """A machine that is slow for a while, queries of all lengths, noise of a fifth: 300 pairs are enough to see 5 %."""
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(400):
        alike = rng.lognormal(-3.0, 0.4, 300) * np.repeat(rng.lognormal(0.0, 0.3, 10), 30)
        a, b = (alike * rng.lognormal(0.0, 0.2, 300) for _ in range(2))
        found = times_as_slow(a, b)
        assert -0.1 < found["low"] < found["high"] < 0.1
        held += found["low"] <= 0.0 <= found["high"]
    assert 0.93 <= held / 400 <= 0.98


def test_pairs_with_errors() -> None:
    times = np.array([0.1] * 9)
    failed = np.array([0.1] * 3 + [np.inf] * 6)
    assert times_as_slow(failed, times)["value"] is None
    assert slower_by(failed, times)["value"] is None
    assert slower_by(failed, failed)["value"] == times_as_slow(failed, failed)["value"] == 0.0
    assert slower_by(np.zeros(0), np.zeros(0))["value"] is None


def test_requests_during_which_no_other_was_on_its_way_are_told_apart() -> None:
    """The second waits for the first; the fourth is overtaken; an error is on its way for ever."""
    due = np.array([0.0, 0.1, 1.0, 2.0, 2.5, 4.0, 5.0, 6.0])
    took = np.array([0.2, 0.3, 0.5, 1.0, 0.1, 0.3, np.inf, 0.1])
    found = replace(samples_of(took)[1], scheduled=due)
    assert unqueued(found).tolist() == [0.5, 0.3]
    assert len(unqueued(empty())) == 0

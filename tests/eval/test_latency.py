"""The load generator against servers whose answer times are known, and what is made of its samples."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.arrivals import ArrivalPlan, poisson, replay
from eval.bench import Settings, bench, sweep
from eval.endpoint import Target, streamed_tokens
from eval.latency import hdr, over_repeats, percentiles, saturated, slower_by, summarise, times_as_slow, unqueued
from eval.load_generator import one_by_one, run
from eval.load_samples import Samples, empty
from task.errors import InputError
from tests.eval.known_server import known

pytestmark = pytest.mark.alone
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


# -- when requests leave ----------------------------------------------------------------------------------------------


def test_arrivals_are_poisson_seeded_and_ask_every_query_once_before_any_again() -> None:
    plan = poisson(100, 50, QUERIES, 1, hits=["hit"], hit_share=0.3)
    again = poisson(100, 50, QUERIES, 1, hits=["hit"], hit_share=0.3)
    assert np.array_equal(plan.at, again.at)
    assert plan.queries == again.queries
    assert not np.array_equal(plan.at[:10], poisson(100, 50, QUERIES, 2).at[:10])
    assert len(plan) == pytest.approx(5_000, rel=0.06)
    gaps = np.diff(plan.at)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)  # exponential: deviation = mean
    assert plan.use_cache.mean() == pytest.approx(0.3, abs=0.03)
    assert plan.at[-1] < 50
    first = [q for q, h in zip(plan.queries, plan.use_cache, strict=True) if not h][:500]
    assert len(set(first)) == 500


def test_a_rising_rate_rises_evenly() -> None:
    plan = poisson(20, 100, QUERIES, 0, to=100)
    assert len(plan) == pytest.approx(60 * 100, rel=0.05)
    assert plan.rate == 60
    counts, _ = np.histogram(plan.at, bins=10, range=(0, 100))
    assert counts == pytest.approx([10 * (24 + 8 * i) for i in range(10)], rel=0.15)
    down = poisson(100, 100, QUERIES, 0, to=20)
    assert (down.at < 50).mean() == pytest.approx(80 / 120, abs=0.03)
    assert down.at.max() < 100


def test_shares_of_a_plan_are_the_plan() -> None:
    plan = poisson(50, 10, QUERIES, 0)
    parts = [plan.share(i, 3) for i in range(3)]
    assert sorted(itertools.chain(*(p.at for p in parts))) == list(plan.at)
    assert sorted(itertools.chain(*(p.queries for p in parts))) == sorted(plan.queries)


def test_a_log_is_replayed_with_its_own_timing(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"query": "a", "at": "2026-11-22T10:00:00"}\n{"query": "b", "at": "2026-11-22T10:00:00.500"}\n'
        '{"query": "a", "at": "2026-11-22T10:00:02"}\n'
    )
    plan = replay(log, speed=2)
    assert plan.at.tolist() == [0.0, 0.25, 1.0]
    assert list(plan.queries) == ["a", "b", "a"]
    log.write_text('{"query": "a", "at": 3}\n{"query": "b", "at": 2}\n')
    with pytest.raises(InputError, match=r"log\.jsonl.*2"):
        replay(log)
    log.write_text('{"query": "a"}\n')
    with pytest.raises(InputError, match="at"):
        replay(log)


# -- against known servers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
def test_a_constant_server_is_measured_as_constant(processes: int) -> None:
    with known("constant", 0.02) as url:
        plan = poisson(100, 3, QUERIES, 0)
        found = run(plan, Target(url), processes=processes)
    assert len(found) == len(plan)
    assert np.allclose(found.scheduled, plan.at)
    assert (found.status == 200).all()
    assert found.latency.min() >= 0.0199
    assert np.median(found.latency) < 0.05
    assert len(found.cpu) == processes


def test_a_queue_is_seen_as_its_own_arrivals_and_services_make_it() -> None:
    """One server at 70 % load, request by request: the wait is what Lindley's recursion gives for the same numbers."""
    plan = poisson(70, 5, QUERIES, 3)
    with known("mm1", 100, 1) as url:
        found = run(plan, Target(url))
    services, free, expected = random.Random(1), 0.0, []
    for at in plan.at:
        free = max(at, free) + services.expovariate(100)
        expected.append(free - at)
    assert found.latency.min() > 0
    late = found.latency - np.array(expected)  # two that came at once may have changed places
    assert np.quantile(late, 0.02) > -0.01
    assert np.median(found.latency - np.array(expected)) < 0.5 * np.mean(expected)


def test_a_stall_is_seen_by_everyone_it_kept_waiting() -> None:
    """One second in every two: a closed loop would send one slow request, here all that were due are late."""
    with known("stall", 2, 1) as url:
        found = run(poisson(100, 4, QUERIES, 0), Target(url))
    assert 0.35 < (found.latency > 0.1).mean() < 0.55  # 0.9 of 2 seconds, by theory 0.45


def test_errors_and_broken_connections_count_as_infinitely_slow() -> None:
    with known("fail", 4) as url:
        found = one_by_one(Target(url), QUERIES[:40], use_cache=False)
    assert percentiles(found.latency)["errors"] == 10
    assert sorted(set(found.status.tolist())) == [200, 500]
    with known("drop", 1) as url:
        found = run(poisson(50, 1, QUERIES, 0), Target(url))
    assert np.isinf(found.latency).all()
    assert (found.status == 0).all()


def test_a_connection_that_closes_before_a_byte_comes_back_is_tried_once_more() -> None:
    with known("drop", 7) as url:
        found = one_by_one(Target(url), QUERIES[:30], use_cache=False)
    assert np.isfinite(found.latency).all()


def test_nobody_listens_and_nobody_answers() -> None:
    plan = poisson(50, 1.0, QUERIES, 0)
    found = run(plan, Target("http://127.0.0.1:9"))
    assert (found.status == 0).all()
    said = summarise([(plan, found)])
    assert said["valid"]  # it is the server that is not there, not the generator that is late
    assert said["saturated"]
    with known("constant", 5) as url:
        found = run(poisson(20, 0.5, QUERIES, 0), Target(url), timeout_s=0.3)
    assert np.isinf(found.latency).all()
    with pytest.raises(InputError, match="address"):
        run(plan, Target("localhost:80"))


def test_hits_and_misses_are_told_apart_by_what_the_gateway_says() -> None:
    with known("constant", 0) as url:
        plan = poisson(200, 1, QUERIES, 0, hits=["hit"], hit_share=0.5)
        found = run(plan, Target(url))
    assert np.array_equal(found.hit, plan.use_cache)


def test_streams_give_the_time_to_the_first_token_and_between_tokens() -> None:
    with known("stream", 0.05, 0.01, 5) as url:
        plan = poisson(30, 1.5, QUERIES, 0)
        found = run(plan, Target(url, api="chat"))
    assert (found.tokens == 5).all()
    said = summarise([(plan, found)], kinds=False)
    assert said["ttft"]["p50_ms"]["value"] == pytest.approx(50, abs=15)
    assert said["tpot"]["p50_ms"]["value"] == pytest.approx(10, abs=4)
    assert streamed_tokens(b'data: {"choices":[{"delta":{"content":""}}]}\n\ndata: [DONE]\n\n') == 0


# -- what is made of it -----------------------------------------------------------------------------------------------


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


# -- the whole benchmark ----------------------------------------------------------------------------------------------


def test_a_benchmark_has_every_phase_and_uses_other_queries_to_warm_up() -> None:
    with known("constant", 0.01) as url:
        found = bench(Target(url), QUERIES, Settings(
            rate=80, seconds=1.0, repeats=5, single=10, warm_up=20, slo_ms=100, percentile="p95", hit_share=0.5,
        ), hits=["hit 1", "hit 2"])
    figures = found.figures
    assert figures["cold"]["count"] == figures["warm_prefix"]["count"] == 10
    assert figures["steady"]["blended"]["runs"] == 5
    assert {"hit", "miss", "blended"} <= figures["steady"].keys()
    assert figures["slo"]["ok"]
    assert len(found.samples["steady"]) == 5


def test_a_sweep_finds_the_rate_at_which_a_server_gives_in() -> None:
    with known("limit", 100) as url:
        found = sweep(Target(url), QUERIES, (), Settings(rate=30, sweep_seconds=2.0))
    assert found["limit"] == "server"
    assert 60 <= found["sustained"] <= 125
    assert [r["rate"] for r in found["rates"]] == sorted(r["rate"] for r in found["rates"])


def test_a_rate_at_which_one_answer_in_forty_fails_is_not_sustained() -> None:
    with known("fail", 40) as url:
        found = sweep(Target(url), QUERIES, (), Settings(rate=200, sweep_seconds=0.5))
    worst = found["rates"][-1]
    assert (worst["valid"], worst["saturated"], worst["holds"]) == (True, False, False)


def test_requests_during_which_no_other_was_on_its_way_are_told_apart() -> None:
    """The second waits for the first; the fourth is overtaken; an error is on its way for ever."""
    due = np.array([0.0, 0.1, 1.0, 2.0, 2.5, 4.0, 5.0, 6.0])
    took = np.array([0.2, 0.3, 0.5, 1.0, 0.1, 0.3, np.inf, 0.1])
    found = replace(samples_of(took)[1], scheduled=due)
    assert unqueued(found).tolist() == [0.5, 0.3]
    assert len(unqueued(empty())) == 0


def test_an_objective_that_an_idle_server_misses_is_tried_at_no_lower_rate() -> None:
    with known("constant", 0.05) as url:
        found = sweep(Target(url), QUERIES, (), Settings(rate=8, sweep_seconds=2.5, slo_ms=20, percentile="p50"))
    assert found["sustained"] is None
    assert [r["rate"] for r in found["rates"]] == [8]


def test_a_queue_that_misses_an_objective_is_offered_less() -> None:
    """One request at a time, 20 ms each: at 90/s a queue grows, at a quarter of that few requests wait."""
    with known("limit", 50) as url:
        found = sweep(Target(url), QUERIES, (), Settings(rate=90, sweep_seconds=0.7, slo_ms=45, percentile="p50"))
    assert found["sustained"] is not None


def test_a_server_that_answers_nothing_but_errors_is_no_benchmark() -> None:
    with known("fail", 1) as url, pytest.raises(InputError, match="HTTP 500"):
        bench(Target(url), QUERIES, Settings(rate=10, seconds=0.5, repeats=1))

"""The load generator: when requests leave, and what it measures of servers whose answer times are known."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from eval.arrivals import poisson, replay
from eval.endpoint import Target, streamed_tokens
from eval.latency import percentiles, summarise
from eval.load_generator import one_by_one, run
from task.errors import InputError
from tests.eval.known_server import known

pytestmark = pytest.mark.alone
QUERIES = [f"oat milk {i}" for i in range(500)]


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

"""A whole benchmark of servers whose answer times are known: its phases, and the highest rate that is sustained."""

from __future__ import annotations

import pytest

from eval.bench import Settings, bench, sweep
from eval.endpoint import Target
from task.errors import InputError
from tests.eval.known_server import known

pytestmark = pytest.mark.alone
QUERIES = [f"oat milk {i}" for i in range(500)]


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

"""The load generator against servers whose answer times are known."""

from __future__ import annotations

import asyncio
import itertools
import random
import time

import pytest
from aiohttp import web

from eval.latency import Sample, one_by_one, open_loop, percentiles, schedule, summarise


class Server:
    """Answers `/v1/label` after a delay; `stall` freezes everything once, `fail` answers 500 to every n-th."""

    def __init__(self, delay: float, stall: tuple[float, float] | None = None, fail_every: int = 0) -> None:
        self.delay, self.stall, self.fail_every = delay, stall, fail_every
        self.numbers = itertools.count(1)

    async def __aenter__(self) -> str:
        self.started = time.perf_counter()
        app = web.Application()
        app.router.add_post("/v1/label", self.answer)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        port = self.runner.addresses[0][1]
        return f"http://127.0.0.1:{port}"

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()

    async def answer(self, request: web.Request) -> web.Response:
        at = time.perf_counter() - self.started
        if self.stall and self.stall[0] <= at < self.stall[1]:
            await asyncio.sleep(self.stall[1] - at)
        await asyncio.sleep(self.delay)
        if self.fail_every and next(self.numbers) % self.fail_every == 0:
            return web.Response(status=500)
        return web.json_response({})


def test_arrivals_are_poisson_and_seeded() -> None:
    plan = schedule(100, 50, 0.3, seed=1)
    assert plan == schedule(100, 50, 0.3, seed=1)
    assert plan != schedule(100, 50, 0.3, seed=2)
    assert len(plan) == pytest.approx(5000, rel=0.06)
    gaps = [b[0] - a[0] for a, b in itertools.pairwise(plan)]
    mean = sum(gaps) / len(gaps)
    variance = sum((g - mean) ** 2 for g in gaps) / len(gaps)
    assert variance**0.5 == pytest.approx(mean, rel=0.1)  # exponential: deviation = mean
    assert sum(k == "hit" for _, k in plan) / len(plan) == pytest.approx(0.3, abs=0.03)


def test_a_stall_is_seen_by_everyone_it_kept_waiting() -> None:
    """A closed loop would send one slow request; an open one sees all that were due in the stalled second."""

    async def run() -> list[Sample]:
        async with Server(0.0, stall=(0.5, 1.5)) as url:
            return await open_loop(url, schedule(100, 2.0, 0.0, 0), {"hit": ["x"], "miss": ["x"]})

    samples = asyncio.run(run())
    slow = sum(s.latency > 0.1 for s in samples) / len(samples)
    assert 0.3 < slow < 0.6  # 0.9 of 2 seconds, by theory 0.45


def test_errors_count_as_infinitely_slow() -> None:
    async def run() -> list[float]:
        async with Server(0.0, fail_every=4) as url:
            return await one_by_one(url, ["x"] * 40, "miss")

    found = percentiles(asyncio.run(run()))
    assert found["errors"] == 10
    assert found["p50_ms"]["value"] is not None


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


def test_a_late_generator_makes_the_run_invalid() -> None:
    late = [Sample("miss", i / 10, 0.5 if i % 20 == 0 else 0.001, 0.02, True) for i in range(100)]
    found = summarise(late, 10, 10, 100)
    assert not found["valid"]
    assert "too slow" in found["problem"]
    on_time = [Sample("miss", i / 10, 0.001, 0.02, True) for i in range(100)]
    assert summarise(on_time, 10, 10, 100)["valid"]

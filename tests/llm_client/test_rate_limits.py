"""The limit of calls in flight follows what the server accepts; rates hold over any minute. No real clock, no sleep."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from llm_client.rate_limits import AdaptiveConcurrency, TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def a_round(gate: AdaptiveConcurrency, clock: Clock, calls: int, refused: bool) -> int:
    """Start calls until the gate is full, then let all end; how many were in flight together."""
    tasks = [asyncio.create_task(gate.enter()) for _ in range(calls)]
    await asyncio.sleep(0)
    most = gate.in_flight
    entered = [t.result() for t in tasks if t.done()]
    clock.now += 1
    for t in tasks:
        if not t.done():
            t.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for e in entered:
        gate.leave(e, refused=refused)
    return most


def test_it_starts_at_20_doubles_until_the_first_refusal_and_then_creeps() -> None:
    async def scenario() -> list[int]:
        clock = Clock()
        gate = AdaptiveConcurrency(1_000, clock)
        seen = [await a_round(gate, clock, 400, refused=False) for _ in range(3)]
        seen.append(await a_round(gate, clock, 400, refused=True))  # one refusal a round counts, not each
        seen += [await a_round(gate, clock, 400, refused=False) for _ in range(5)]
        return seen

    seen = asyncio.run(scenario())
    assert seen[:4] == [20, 40, 80, 160]
    assert seen[4] == 128
    assert 130 <= seen[-1] <= 132


def test_it_never_goes_below_one_nor_above_the_most() -> None:
    async def scenario() -> tuple[int, int]:
        clock = Clock()
        low, high = AdaptiveConcurrency(8, clock), AdaptiveConcurrency(8, clock)
        for _ in range(30):
            await a_round(low, clock, 20, refused=True)
            await a_round(high, clock, 20, refused=False)
        return await a_round(low, clock, 20, refused=True), await a_round(high, clock, 20, refused=False)

    assert asyncio.run(scenario()) == (1, 8)


def test_a_place_given_to_somebody_who_left_goes_to_the_next() -> None:
    async def scenario() -> int:
        gate = AdaptiveConcurrency(1)
        first = await gate.enter()
        second, third = asyncio.create_task(gate.enter()), asyncio.create_task(gate.enter())
        await asyncio.sleep(0)
        gate.leave(first, refused=False)
        second.cancel()
        await asyncio.wait_for(third, 1)
        return gate.in_flight

    assert asyncio.run(scenario()) == 1


@given(per_minute=st.integers(1, 6_000), gaps=st.lists(st.floats(0, 2), min_size=1, max_size=200))
def test_no_minute_sees_more_than_its_allowance(per_minute: int, gaps: list[float]) -> None:
    clock = Clock()
    rate = TokenBucket(per_minute, clock)
    starts = []
    for gap in gaps:
        clock.now += gap
        starts.append(clock.now + rate.take(1.0))
    burst = max(1.0, per_minute / 60)
    for i, begin in enumerate(starts):
        inside = sum(begin <= s < begin + 60 for s in starts[i:])
        assert inside <= per_minute + burst + 1e-6 + 1


def test_no_limit_never_waits_and_what_was_not_used_comes_back() -> None:
    assert TokenBucket(None).take(1e9) == 0.0
    clock = Clock()
    rate = TokenBucket(60, clock)
    assert rate.take(100) == 99.0
    rate.give_back(99)
    assert rate.take(1) == 1.0

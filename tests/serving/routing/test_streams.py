"""The queries of one batch, divided between two bundles."""

from __future__ import annotations

import asyncio

from serving.routing.route import Answer, Route
from serving.routing.streams import stream_all
from task.serving_settings import Serving
from tests.serving.conftest import Open


def test_both_bundles_are_asked_at_once(harness: Open) -> None:
    """Asked after the other had answered, one would have less time until the deadline."""
    async def run() -> None:
        async with harness() as h:
            other = Route(h.route.bundle, h.route.cache, h.route.student, Serving())
            h.engine.delay_s = 1.0
            due = asyncio.get_running_loop().time() + 10.0
            found, sent = {}, []
            async for route, query, outcome in stream_all({h.route: ["a MILK", "b MILK"], other: ["c MILK"]}, due):
                found[route, query] = outcome
                sent.append(h.engine.requests)
            assert found.keys() == {(h.route, "a MILK"), (h.route, "b MILK"), (other, "c MILK")}
            assert all(isinstance(outcome, Answer) for outcome in found.values())
            assert sent == [2, 2, 2]
            assert [x async for x in stream_all({}, due)] == []

    asyncio.run(run())


def test_a_route_that_fails_leaves_the_other_its_answers(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            down = Route(h.route.bundle, h.route.cache, h.route.student, Serving())
            down.set_engine_checked(False)
            due = asyncio.get_running_loop().time() + 5.0
            found = {q: o async for _, q, o in stream_all({down: ["a MILK"], h.route: ["b MILK"]}, due)}
            assert (isinstance(found["a MILK"], Exception), isinstance(found["b MILK"], Answer)) == (True, True)

    asyncio.run(run())

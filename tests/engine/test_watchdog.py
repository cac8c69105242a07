"""An engine is used only if its labels agree with those of the trained student."""

from __future__ import annotations

import asyncio

import pytest

from engine.interface import EngineError
from engine.servable import StartupQueries
from engine.startup import check, warm_up_and_check
from task.labels import Example, Label
from tests.serving.conftest import Open

QUERIES = [f"OAT milk {i}" for i in range(10)]


def test_an_engine_must_agree_with_the_trained_student(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            said = [Example(q, j.labels) for q, j in zip(QUERIES, await h.route.student.label(QUERIES), strict=True)]
            assert {x.text for x in said[0].labels} >= {"OAT"}
            await check(h.route.student, said, min_agreement=1.0)
            one_off = [Example(QUERIES[0]), *said[1:]]
            await check(h.route.student, one_off, min_agreement=0.9)
            with pytest.raises(EngineError, match=r"gives 90\.0% of the labels .* to 10 queries.*requires 95%"):
                await check(h.route.student, one_off, min_agreement=0.95)

    asyncio.run(run())


def test_an_engine_that_agrees_on_nothing_is_refused(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            other = [Example(q, (Label("product", "milk", 4, 8),)) for q in QUERIES]
            with pytest.raises(EngineError, match=r"gives 0\.0% of the labels"):
                await check(h.route.student, other, min_agreement=0.9)

    asyncio.run(run())


def test_an_engine_whose_answers_cannot_be_used_is_refused(harness: Open) -> None:
    """Without labels on either side all labels agree, whatever the engine answers."""
    async def run() -> None:
        async with harness() as h:
            nothing = [Example(q) for q in QUERIES]
            h.engine.mood = "nan"
            with pytest.raises(EngineError, match="10 of 10 of the engine's answers cannot be used: unreadable"):
                await check(h.route.student, nothing, min_agreement=0.9)
            await check(h.route.student, nothing, min_agreement=0.0)  # what `limbeck gate` asks for, to judge itself

    asyncio.run(run())


def test_an_engine_is_warmed_up_with_all_lengths_and_then_checked(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            queries = ["oat", "oat milk", "fresh oat milk"]
            wrong = [Example(q, (Label("product", "milk", 4, 8),)) for q in QUERIES[:8]]
            with pytest.raises(EngineError, match=r"gives 0\.0% of the labels"):
                await warm_up_and_check(h.route.student, StartupQueries(queries, wrong), min_agreement=0.9)
            assert h.engine.requests == 3 + 1 + 1  # one by one, together, the reference

    asyncio.run(run())


def test_the_reference_is_asked_in_parts_that_a_slow_engine_answers_in_time(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            said = [Example(q, j.labels) for q, j in zip(QUERIES, await h.route.student.label(QUERIES), strict=True)]
            before = h.engine.requests
            await check(h.route.student, said, min_agreement=1.0)
            assert h.engine.requests == before + 2

    asyncio.run(run())


def test_without_reference_nothing_is_asked(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            await check(h.route.student, [], min_agreement=1.0)
            assert h.engine.requests == 0

    asyncio.run(run())

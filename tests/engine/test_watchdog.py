"""An engine is believed when it says what the trained student said."""

from __future__ import annotations

import asyncio

import pytest

from engine.process import EngineError
from engine.watchdog import Questions, check, welcome
from task.labels import Example, Label
from tests.serving.conftest import Open

QUERIES = [f"OAT milk {i}" for i in range(10)]


def test_an_engine_must_say_what_the_trained_student_said(house: Open) -> None:
    async def run() -> None:
        async with house() as h:
            said = [Example(q, j.labels) for q, j in zip(QUERIES, await h.route.student.label(QUERIES), strict=True)]
            assert {x.text for x in said[0].labels} >= {"OAT"}
            await check(h.route.student, said, 1.0)
            one_off = [Example(QUERIES[0]), *said[1:]]
            await check(h.route.student, one_off, 0.9)
            with pytest.raises(EngineError, match=r"gives 90\.0% of the labels .* to 10 queries.*asks for 95%"):
                await check(h.route.student, one_off, 0.95)

    asyncio.run(run())


def test_who_says_something_else_altogether_is_not_believed(house: Open) -> None:
    async def run() -> None:
        async with house() as h:
            other = [Example(q, (Label("product", "milk", 4, 8),)) for q in QUERIES]
            with pytest.raises(EngineError, match=r"gives 0\.0% of the labels"):
                await check(h.route.student, other, 0.9)

    asyncio.run(run())


def test_an_engine_is_asked_in_all_lengths_and_then_checked(house: Open) -> None:
    async def run() -> None:
        async with house() as h:
            queries = ["oat", "oat milk", "fresh oat milk"]
            wrong = [Example(q, (Label("product", "milk", 4, 8),)) for q in QUERIES[:8]]
            with pytest.raises(EngineError, match=r"gives 0\.0% of the labels"):
                await welcome(h.route.student, Questions(queries, wrong), 0.9)
            assert h.engine.requests == 3 + 1 + 1  # one by one, together, the reference

    asyncio.run(run())


def test_the_reference_is_asked_in_parts_that_a_slow_engine_answers_in_time(house: Open) -> None:
    async def run() -> None:
        async with house() as h:
            said = [Example(q, j.labels) for q, j in zip(QUERIES, await h.route.student.label(QUERIES), strict=True)]
            before = h.engine.requests
            await check(h.route.student, said, 1.0)
            assert h.engine.requests == before + 2

    asyncio.run(run())


def test_without_reference_nothing_is_asked(house: Open) -> None:
    async def run() -> None:
        async with house() as h:
            await check(h.route.student, [], 1.0)
            assert h.engine.requests == 0

    asyncio.run(run())

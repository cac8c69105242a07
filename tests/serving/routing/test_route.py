"""Routes: caches, deduplication, load shedding, and an engine that misbehaves."""

from __future__ import annotations

import asyncio

import pytest

from engine.interface import EngineUnavailableError
from serving.routing.route import RefusedError
from serving.routing.throughput import Throughput
from task.calibration import Calibrator
from tests import simulated_time
from tests.serving.conftest import Open


def test_concurrent_identical_questions_are_asked_once(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            h.engine.delay_s = 0.1
            found = await asyncio.gather(*(h.route.answer("rice MILK") for _ in range(20)))
            assert h.engine.requests == 1
            assert {a.labels for a in found} == {found[0].labels}
            assert [x.text for x in found[0].decoded()] == ["MILK"]
            assert h.route.waiting == 0
            await h.route.answer("rice MILK")  # it is answered: a later question is a new one
            assert h.engine.requests == 2

    simulated_time.run(run())


def test_one_who_gives_up_takes_the_answer_from_nobody_else(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            h.engine.delay_s = 0.2
            patient = asyncio.create_task(h.route.answer("rice MILK"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await h.route.answer("rice MILK")
            assert (await patient).source == "student"
            assert h.engine.requests == 1

    simulated_time.run(run())


def test_a_kept_connection_that_was_closed_costs_nobody_an_answer(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            h.engine.mood = "stale"
            for number in range(4):
                assert (await h.label(f"rice MILK {number}")).status_code == 200
            assert h.engine.requests > 4  # some had to be asked again

    asyncio.run(run())


@pytest.mark.parametrize("mood", ["broken", "garbled", "short", "gone"])
def test_an_engine_that_misbehaves_is_left_alone_and_tried_again(harness: Open, mood: str) -> None:
    async def run() -> None:
        async with harness() as h:
            h.engine.mood = mood
            for number in range(5):
                with pytest.raises(EngineUnavailableError):
                    await h.route.answer(f"query {number}")
            asked = h.engine.requests
            with pytest.raises(RefusedError) as refused:
                await h.route.answer("another")
            assert (refused.value.reason, h.engine.requests) == ("engine", asked)
            assert 0 < refused.value.retry_after <= 0.5
            assert (await h.route.answer("oat milk")).source == "cache"
            h.engine.mood = "well"
            await asyncio.sleep(0.55)
            assert (await h.route.answer("another")).source == "student"

    asyncio.run(run())


def test_an_engine_that_has_not_been_checked_is_asked_nothing(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            h.engine.mood = "broken"
            for number in range(5):  # what this engine did must not be held against the next
                with pytest.raises(EngineUnavailableError):
                    await h.route.answer(f"query {number}")
            h.engine.mood = "well"
            h.route.set_engine_checked(False)
            asked = h.engine.requests
            with pytest.raises(RefusedError, match="being started") as refused:
                await h.route.answer("another")
            assert (refused.value.reason, refused.value.retry_after, h.engine.requests) == ("engine", 1.0, asked)
            assert (await h.label("another")).status_code == 503
            assert (await h.client.get("/readyz")).status_code == 503
            assert (await h.label("oat milk")).json()["source"] == "cache"
            h.route.set_engine_checked(True)
            assert (await h.route.answer("another")).source == "student"

    asyncio.run(run())


def test_more_than_may_wait_are_refused_at_once(harness: Open) -> None:
    async def run() -> None:
        async with harness(max_waiting=3) as h:
            h.engine.delay_s = 0.3
            first = [asyncio.create_task(h.route.answer(f"query {i}")) for i in range(3)]
            await asyncio.sleep(0.05)
            started = asyncio.get_running_loop().time()
            with pytest.raises(RefusedError) as refused:
                await h.route.answer("one more")
            assert (refused.value.reason, asyncio.get_running_loop().time()) == ("busy", started)
            assert (await h.route.answer("query 0")).source == "student"  # joins one who waits already
            await asyncio.gather(*first)

    simulated_time.run(run())


def test_what_would_be_late_is_refused_at_once(harness: Open) -> None:
    async def run() -> None:
        async with harness(request_timeout_s=1.0) as h:
            h.engine.delay_s, h.engine.one_at_a_time = 0.05, True
            await asyncio.gather(*(h.route.answer(f"first {i}") for i in range(15)))  # now 20/s is known
            found = await asyncio.gather(*(h.route.answer(f"then {i}") for i in range(60)), return_exceptions=True)
            refused = [x for x in found if isinstance(x, RefusedError)]
            assert {x.reason for x in refused} == {"busy"}
            assert len(refused) > 35  # a second's worth, 20, is taken in
            assert all(not isinstance(x, Exception) for x in found[:19])
            await asyncio.sleep(0.1)
            assert (await h.route.answer("later")).source == "student"

    simulated_time.run(run())


def test_an_idle_engine_is_not_a_slow_one() -> None:
    throughput = Throughput()
    for second in range(100):
        throughput.started(float(second))
        throughput.completed(answers=1, waiting=0, now=second + 0.05)
    assert throughput.seconds_for(20) == pytest.approx(1.0)
    for second in range(100):  # a queue is worked off in batches
        throughput.started(100.0 + second)
        throughput.completed(answers=64, waiting=32 if second < 99 else 0, now=101.0 + second)
    assert throughput.seconds_for(64) == pytest.approx(1.0, rel=0.05)
    assert Throughput().seconds_for(1_000) == 0.0


def test_doubt_marks_and_withholds(harness: Open) -> None:
    async def run() -> None:
        async with harness(certain={"uncertain": 0.9, "abstain": 0.2}) as h:
            h.engine.sure = 3.0
            marked = await h.route.answer("rice MILK")
            assert marked.status == "uncertain"
            assert [x.text for x in marked.decoded()] == ["MILK"]
            h.engine.sure = 0.1
            withheld = await h.route.answer("rice MILK")
            assert (withheld.status, withheld.labels) == ("abstained", b"[]")
            assert [q for q, _ in h.uncertain] == ["rice MILK", "rice MILK"]
            h.engine.sure = 20.0
            assert (await h.route.answer("rice MILK")).status == "ok"

    asyncio.run(run())


def test_a_raw_probability_goes_through_the_bundles_curve() -> None:
    curve = Calibrator(((0.0, 0.1), (0.5, 0.1), (1.0, 0.9)))
    assert [round(curve.probability(x), 3) for x in (0.0, 0.3, 0.5, 0.75, 1.0)] == [0.1, 0.1, 0.1, 0.5, 0.9]
    assert Calibrator().probability(0.3) == 0.3
    assert Calibrator.from_json(curve.to_json()) == curve


def test_sure_answers_are_kept_and_unsure_ones_are_not(harness: Open) -> None:
    async def run() -> None:
        async with harness(write_back={"ttl_s": 60.0, "probability": 0.95}) as h:
            first = await h.route.answer("rice MILK")
            again = await h.route.answer("RICE  milk")  # the same text to the normaliser, in another case and spacing
            assert (first.source, again.source, h.engine.requests) == ("student", "kept", 1)
            assert [(x.text, x.start, x.end) for x in again.decoded()] == [("milk", 6, 10)]
            h.engine.sure = 2.0
            await h.route.answer("soy MILK")
            assert (await h.route.answer("soy MILK")).source == "student"

    asyncio.run(run())


@pytest.mark.parametrize("purge", [
    {"text": "oat milk"}, {"label": ("aisle", "dairy")}, {"label": ("product", "oat milk")}, {"before": 4e9},
])
def test_what_was_purged_is_answered_by_the_student(harness: Open, purge: dict[str, object]) -> None:
    async def run() -> None:
        async with harness(write_back={"ttl_s": 60.0}) as h:
            assert (await h.route.answer("oat milk")).source == "cache"
            h.route._store.purge(**purge)
            assert (await h.route.answer("oat milk")).source == "student"
            h.route._store.restore()
            assert (await h.route.answer("oat milk")).source == "cache"

    asyncio.run(run())

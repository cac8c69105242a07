"""What is counted of a student's answers: each distinct query once, by all workers together."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing.route import RefusedError
from serving.routing.student_tally import CountedQueries, StudentFigures, StudentTally, make_counted, step, step_s
from tests.serving.conftest import Harness, Open


def hashed(query: str) -> str:
    return hashlib.sha256(query.lower().encode()).hexdigest()


def tally(folder: Path) -> StudentTally:
    path = folder / "counted" / "one"
    if not path.exists():
        make_counted(path)
    return StudentTally(CountedQueries(path, hashed))


def test_a_query_counts_once_whichever_worker_answers_it(tmp_path: Path) -> None:
    one, two = tally(tmp_path), tally(tmp_path)
    for worker in (one, two, one):
        worker.answered("oat milk", 0.1, failed=False, abstained=True, probability=0.5)
    two.failed("rice milk")
    one.answered("Rice Milk", 0.1, failed=False, abstained=False, probability=0.9)  # to the hash the same query
    two.failed("soy milk", 2.0)
    assert one.figures() == StudentFigures(
        answers=1, abstained=1, judged=1, probability=0.5, squares=0.25, seconds={step(0.1): 1}
    )
    assert two.figures() == StudentFigures(answers=2, failed=2, seconds={step(2.0): 1})
    both = one.figures() + two.figures()
    assert (both.answers, both.usable, both.seconds) == (3, 1, {step(0.1): 1, step(2.0): 1})


def test_a_tally_whose_counting_is_over_writes_nowhere(tmp_path: Path) -> None:
    """A request that outlives it must not write into the file that has its number now."""
    make_counted(tmp_path / "one")
    counted = CountedQueries(tmp_path / "one", hashed)
    counted.close()
    late = StudentTally(counted)
    with (tmp_path / "other").open("w+b") as other:
        late.failed("oat milk")
        assert other.read() == b""
    assert late.figures().answers == 0


@given(seconds=st.floats(0.0, 1_000.0))
def test_a_time_lies_in_its_step(seconds: float) -> None:
    number = step(seconds)
    assert step_s(number) <= seconds * (1 + 1e-9) or number == 0
    assert seconds <= step_s(number + 1) * (1 + 1e-9)


def counts(h: Harness, folder: Path) -> StudentFigures:
    assert h.route.tally is not None
    return h.route.tally.figures()


def test_what_the_student_does_with_clients_queries_is_counted(harness: Open, tmp_path: Path) -> None:
    async def run() -> None:
        async with harness(request_timeout_s=5.0, certain={"abstain": 1.0, "uncertain": 1.0}) as h:
            h.route.tally = tally(tmp_path)
            await h.label("oat milk")  # the cache's
            await h.label("  ")  # nobody was asked
            await h.route.answer("shadow MILK")  # nor is the client of a comparison
            assert counts(h, tmp_path).answers == 0
            for _ in range(3):
                assert (await h.label("rice MILK")).status_code == 200
            h.engine.sure = 0.5
            assert (await h.label("soy MILK")).json()["status"] == "abstained"
            batch = await h.client.post("/v1/label:batch", json={"queries": ["a MILK", "b MILK", "oat milk"]})
            assert len(batch.text.splitlines()) == 3
            found = counts(h, tmp_path)
            assert (found.answers, found.failed, found.judged) == (4, 0, 4)
            assert found.abstained >= 3
            assert sum(found.seconds.values()) == 4
            assert 0.0 < found.squares < found.probability < 4.0

    asyncio.run(run())


def test_what_is_not_answered_is_counted_as_failed(harness: Open, tmp_path: Path) -> None:
    async def run() -> None:
        async with harness(request_timeout_s=0.5) as h:
            h.route.tally = tally(tmp_path)
            h.engine.delay_s = 2.0
            assert (await h.label("late MILK")).status_code == 503
            late = counts(h, tmp_path)
            assert (late.answers, late.failed) == (1, 1)
            h.engine.delay_s, h.engine.mood = 0.0, "broken"
            assert (await h.label("broken MILK")).status_code == 503
            await h.client.post("/v1/label:batch", json={"queries": ["c MILK", "d MILK"]})
            h.route.set_engine_checked(False)
            with pytest.raises(RefusedError):
                await h.route.missed("refused MILK")
            await h.client.post("/v1/label:batch", json={"queries": ["e MILK"]})
            found = counts(h, tmp_path)
            assert (found.answers, found.failed, found.usable) == (6, 6, 0)

    asyncio.run(run())

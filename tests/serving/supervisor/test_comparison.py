"""The figures of both bundles over all workers, of workers that have ended as well."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from serving.routing.student_tally import StudentFigures
from serving.supervisor.comparison import Comparison, PointerChangedError, unchanged
from serving.supervisor.state import StateFolder, WorkerReport
from serving.supervisor.worker_pool import WorkerPool
from task.errors import InputError
from task.files import write_json
from task.serving_settings import Bounds, Serving

OLD, NEW = "old", "new"


def of(answers: int, abstained: int = 0) -> StudentFigures:
    return StudentFigures(answers=answers, abstained=abstained, seconds={3: answers})


class Workers:
    """Writes the reports of two workers, as these do."""

    def __init__(self, folder: Path) -> None:
        self.state = StateFolder(folder)
        settings = Serving(workers=2)
        self.pool = WorkerPool(self.state, settings, report=lambda _: None, before_start=lambda: None)

    def comparison(self, least: int = 10) -> Comparison:
        return Comparison(Bounds(least=least), released=OLD, new=NEW, state=self.state, workers=self.pool)

    def report(self, number: int, pid: int, tally: str, figures: Mapping[str, StudentFigures]) -> None:
        self.state.write_report(number, WorkerReport(
            pid=pid, generation=1, waiting={}, answered={}, figures={tally: dict(figures)}
        ))


def test_what_a_worker_counted_before_it_ended_stays(tmp_path: Path) -> None:
    workers = Workers(tmp_path)
    one = workers.comparison()
    one.begin()
    assert workers.state.counted(one.tally).exists()
    workers.report(0, 100, one.tally, {OLD: of(50, 5), NEW: of(3)})
    workers.report(1, 101, one.tally, {OLD: of(20)})
    assert one.look() is None
    assert one.figures() == (of(70, 5), of(3))
    workers.state.remove_report(0)  # it was killed
    one.look()
    assert one.figures() == (of(70, 5), of(3))
    workers.report(0, 102, one.tally, {OLD: of(1)})  # its successor begins at zero
    workers.report(1, 101, one.tally, {OLD: of(21), NEW: of(4)})
    one.look()
    assert one.figures() == (of(72, 5), of(7))
    one.end()
    assert not list((tmp_path / "counted").iterdir())


def test_each_counting_has_its_own_figures(tmp_path: Path) -> None:
    workers = Workers(tmp_path)
    one = workers.comparison()
    one.begin()
    first = one.tally
    workers.report(0, 100, first, {OLD: of(1_000, 10), NEW: of(5, 5)})
    one.look()
    assert "5 answers of the new bundle's student and 1,000 of the released" in one.outcome()
    one.keep_released()
    one.begin()
    one.look()
    assert one.figures() == (of(1_000, 10), StudentFigures())  # the report was of the one before
    workers.report(0, 100, one.tally, {OLD: of(7, 7), NEW: of(100, 90)})
    harm = one.look()
    assert harm is not None
    assert "90.0 % of 100 answers, 89.0 points more than the released bundle's 1.0 % of 1,000" in harm.why
    assert one.tally != first


def test_a_wait_ends_with_the_harm_or_with_the_pointer(tmp_path: Path) -> None:
    from serving.release.pointer import Pointer, Release

    workers, path = Workers(tmp_path), tmp_path / "live.json"

    def pointing(name: str) -> Pointer:
        found = Pointer(current=Release(bundle=tmp_path / name, id=name), at="2026-11-01T00:00:00+00:00")
        write_json(path, found.model_dump(mode="json"))
        return found

    async def run() -> None:
        pointer = pointing(NEW)
        one = workers.comparison()
        one.begin()
        assert await unchanged(path, pointer, 0.2, one) is None
        workers.report(0, 100, one.tally, {OLD: of(1_000), NEW: of(100, 90)})
        harm = await asyncio.wait_for(unchanged(path, pointer, 60.0, one), 5.0)
        assert harm is not None
        assert harm.kind == "abstained"
        pointing(OLD)
        with pytest.raises(PointerChangedError, match="points to another bundle now; found 'old'") as raised:
            await unchanged(path, pointer, 60.0)
        assert isinstance(raised.value, InputError)

    asyncio.run(run())

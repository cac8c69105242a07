from __future__ import annotations

import asyncio
import datetime
import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from serving.telemetry.capture_log import CaptureLog, keep_capturing
from serving.telemetry.kept_files import KeptFiles
from task.captures import Capture, read_captures
from tests import simulated_time

LABELS = json.dumps([{"role": "brand", "text": "a"}, {"role": "brand", "text": "b"}, {"role": "aisle", "text": "c"}])
BEGAN = 1_767_268_800.0


class Clock:
    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> float:
        return self.now


def log_of(folder: Path, clock: Clock, *, rows: int = 1_000, **more: Any) -> CaptureLog:
    return CaptureLog(KeptFiles(folder), rows=rows, window_s=60.0, random=Random(7), clock=clock, **more)


def add(log: CaptureLog, query: str, **more: Any) -> None:
    log.add(**{
        "bundle": "b1", "task": "toy", "query": query, "source": "student", "status": "ok", "probability": 0.75,
        "labels": LABELS.encode(), "keep": "query", **more,
    })


def captures(folder: Path) -> list[Capture]:
    return list(read_captures(folder / "captures"))


def test_answers_of_a_window_are_counted_by_bundle_query_source_and_status(tmp_path: Path) -> None:
    clock = Clock()
    log = log_of(tmp_path, clock)
    for _ in range(3):
        add(log, "oat milk")
    add(log, "oat milk", source="cache", probability=None)
    add(log, "oat milk", bundle="b2", status="uncertain")
    add(log, " \t")
    log.turn()
    log.write()
    assert captures(tmp_path) == []  # the window is not over
    clock.now += 60.0
    log.turn()
    log.write()
    made = [(c.query, c.count, c.weight, c.bundle, c.source, c.status, c.probability) for c in captures(tmp_path)]
    assert made == [
        ("oat milk", 3, 3.0, "b1", "student", "ok", 0.75), ("oat milk", 1, 1.0, "b1", "cache", "ok", None),
        ("oat milk", 1, 1.0, "b2", "student", "uncertain", 0.75),
    ]
    found = captures(tmp_path)[0]
    assert (found.task, found.roles, found.at) == ("toy", {"brand": 2, "aisle": 1}, clock.now)
    day = datetime.datetime.fromtimestamp(clock.now, datetime.UTC).date()
    assert [p.name for p in (tmp_path / "captures").iterdir()] == [f"{day}.jsonl"]


@pytest.mark.parametrize("most_keys", [3, 10_000])
def test_a_window_has_at_most_so_many_rows_however_many_parts_it_was_counted_in(tmp_path: Path, most_keys: int) -> None:
    clock, total = Clock(), 0.0
    log = log_of(tmp_path, clock, rows=5, most_keys=most_keys)
    for window in range(1, 5):
        for number in range(20):
            add(log, f"query {number}")
            log.write()
        clock.now += 60.0
        log.turn()
        log.write()
        assert len(captures(tmp_path)) == 5 * window
    total = sum(c.weight for c in captures(tmp_path))
    assert total > 4 * 5
    assert all(c.weight >= c.count for c in captures(tmp_path))


def test_traffic_that_fills_the_memory_is_estimated_without_bias(tmp_path: Path) -> None:
    """Every part of a window that was ended early counts: the mean of many windows is the traffic."""
    clock = Clock()
    log = log_of(tmp_path, clock, rows=4, most_keys=5)
    windows = 400
    for _ in range(windows):
        for number in range(24):
            for _repeat in range(1 + 9 * (number == 0)):
                add(log, f"query {number}", source="cache" if number % 2 else "student")
        clock.now += 60.0
        log.turn()
        log.write()
    weights: Counter[str] = Counter()
    for c in captures(tmp_path):
        weights[c.source] += c.weight  # type: ignore[assignment]
    assert log.lost == 0
    assert weights["cache"] / windows == pytest.approx(12, rel=0.15)
    assert weights["student"] / windows == pytest.approx(21, rel=0.15)


@pytest.mark.parametrize(("keep", "query", "hashed"), [
    ("query", "Secret Name", False), ("hash", None, True), ("nothing", None, False),
])
def test_a_capture_has_the_text_or_its_keyed_hash_or_neither(
    tmp_path: Path, keep: str, query: str | None, hashed: bool
) -> None:
    log = log_of(tmp_path, Clock())
    add(log, "Secret Name", keep=keep)
    log.turn(end=True)
    log.write()
    (found,) = captures(tmp_path)
    assert (found.query, found.roles) == (query, {"brand": 2, "aisle": 1})
    assert found.keyed_hash == (KeptFiles(tmp_path).key.hash("secret name") if hashed else None)
    raw = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert (b"Secret" in raw) == (keep == "query")


def test_a_full_disk_loses_captures_and_counts_them(tmp_path: Path) -> None:
    clock, written = Clock(), Counter[str]()
    log = log_of(tmp_path, clock, on_written=lambda bundle, rows: written.update({bundle: rows}))
    (tmp_path / "captures").mkdir()
    day = datetime.datetime.fromtimestamp(BEGAN, datetime.UTC).date()
    (tmp_path / "captures" / f"{day}.jsonl").symlink_to("/dev/full")
    for number in range(3):
        add(log, f"query {number}")
    log.turn(end=True)
    log.write()
    assert (log.lost, written) == (3, Counter())
    (tmp_path / "captures" / f"{day}.jsonl").unlink()
    add(log, "later")
    log.turn(end=True)
    log.write()
    assert [c.query for c in captures(tmp_path)] == ["later"]
    assert (log.lost, written) == (3, Counter({"b1": 1}))


def test_what_the_thread_cannot_follow_is_lost_instead_of_filling_the_memory(tmp_path: Path) -> None:
    log = log_of(tmp_path, Clock(), most_keys=2)
    for number in range(2 * 20):
        add(log, f"query {number}")
    log.turn(end=True)
    log.write()
    assert (len(captures(tmp_path)), log.lost) == (16, 24)


def test_a_window_is_written_when_its_time_is_over(tmp_path: Path) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        log = CaptureLog(KeptFiles(tmp_path), rows=10, window_s=4.0, clock=lambda: BEGAN + loop.time())
        task = asyncio.create_task(keep_capturing(log))
        for window in range(1, 3):
            add(log, "oat milk")
            await asyncio.sleep(3.0)
            assert len(captures(tmp_path)) == window - 1
            await asyncio.sleep(2.0)
            assert len(captures(tmp_path)) == window
        task.cancel()

    simulated_time.run(run())


def test_the_last_window_is_written_when_the_service_ends(tmp_path: Path) -> None:
    async def run() -> None:
        log = log_of(tmp_path, Clock())
        task = asyncio.create_task(keep_capturing(log))
        await asyncio.sleep(0)
        add(log, "oat milk")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert [c.query for c in captures(tmp_path)] == ["oat milk"]


def test_a_query_that_was_forgotten_during_the_window_is_not_written(tmp_path: Path) -> None:
    clock = Clock()
    log = log_of(tmp_path, clock)
    add(log, "Oat milk")
    add(log, "rice")
    KeptFiles(tmp_path).note_forgotten("oat milk", now=clock.now + 5.0)
    clock.now += 60.0
    log.turn()
    log.write()
    assert [c.query for c in captures(tmp_path)] == ["rice"]
    add(log, "Oat milk")  # asked again
    clock.now += 60.0
    log.turn()
    log.write()
    assert [c.query for c in captures(tmp_path)] == ["rice", "Oat milk"]

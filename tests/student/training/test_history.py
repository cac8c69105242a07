"""The history of a run is read while it is written, cut off and replaced."""

from __future__ import annotations

import math
from pathlib import Path

from student.training.history import HistoryReader, append, read_history, truncate_after
from student.training.launch import _HistoryProgress


def test_a_reader_reads_every_line_once_and_no_half_one(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    reader = HistoryReader(path)
    assert reader.read_new() == []
    append(path, {"step": 1})
    append(path, {"step": 2})
    with path.open("a") as file:
        file.write('{"step": ')
    assert reader.read_new() == [{"step": 1}, {"step": 2}]
    assert reader.read_new() == []
    with path.open("a") as file:
        file.write('3}\n')
    assert reader.read_new() == [{"step": 3}]


def test_a_reader_begins_anew_when_steps_were_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for step in range(1, 6):
        append(path, {"step": step})
    reader = HistoryReader(path)
    assert len(reader.read_new()) == 5
    truncate_after(path, 2)
    for step in range(3, 8):  # longer than what was read, so that length says nothing
        append(path, {"step": step})
    assert [x["step"] for x in reader.read_new()] == [1, 2, 3, 4, 5, 6, 7]


def test_forgetting_keeps_a_loss_that_is_no_number_and_drops_what_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    append(path, {"step": 1, "loss": math.nan})
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    truncate_after(path, 1)
    append(path, {"step": 2, "loss": 1.0})
    assert math.isnan(read_history(path)[0]["loss"])
    assert [x["step"] for x in read_history(path)] == [1, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["history.jsonl"]


def test_progress_follows_a_run_that_went_on_from_an_earlier_step(tmp_path: Path) -> None:
    said: list[tuple[str, int]] = []

    class Shown:
        def begin(self, what: str, total: int | None = None, done: int = 0) -> None:
            said.append((what, done))

        def advance(self, count: int = 1, note: str = "") -> None:
            said.append(("", count))

    path = tmp_path / "history.jsonl"
    for step in (1, 2, 3, 4):
        append(path, {"step": step, "of": 9, "loss": 1.0})
    progress = _HistoryProgress(path, Shown())
    truncate_after(path, 0)  # killed before its first checkpoint
    append(path, {"step": 1, "of": 9, "loss": 1.0})
    progress.poll()
    for step in (2, 3):
        append(path, {"step": step, "of": 9, "loss": 1.0})
    progress.poll()
    again = "training again from step 1, for there is no later checkpoint"
    assert said == [("starting Ray workers", 0), (again, 1), ("", 2)]

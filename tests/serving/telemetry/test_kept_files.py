"""Files that several processes append to while others take rows out: no line is lost, cut or left behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from serving.telemetry.kept_files import DAY_S, KeptFiles
from task.captures import read_captures

WRITERS, LINES = 3, 60
SPAWN = multiprocessing.get_context("spawn")
NOON = 1_767_268_800.0  # 2026-01-01, 12:00 UTC


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_many(folder: Path, number: int) -> None:
    files = KeptFiles(folder)
    for at in range(LINES):
        lost = files.append(files.uncertain, [
            {"query": f"keep {number} {at}", "n": "x" * 200}, {"query": "Secret  Name", "n": number},
        ], since=time.time())
        assert not lost


def forget_often(folder: Path, stop: Event) -> None:
    files = KeptFiles(folder)
    while not stop.is_set():
        files.remove(files.uncertain, lambda row: files.key.hash(row["query"]) == files.key.hash("secret name"))


def test_rows_are_removed_while_others_are_written_and_no_other_is_lost(tmp_path: Path) -> None:
    stop = SPAWN.Event()
    remover = SPAWN.Process(target=forget_often, args=(tmp_path, stop))
    writers = [SPAWN.Process(target=write_many, args=(tmp_path, n)) for n in range(WRITERS)]
    remover.start()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    stop.set()
    remover.join()
    assert remover.exitcode == 0
    files = KeptFiles(tmp_path)
    files.remove(files.uncertain, lambda row: row["query"] == "Secret  Name")
    found = [r["query"] for r in rows(files.uncertain)]
    assert sorted(found) == sorted(f"keep {n} {at}" for n in range(WRITERS) for at in range(LINES))


def test_what_was_seen_before_it_was_forgotten_is_not_written_and_what_came_later_is(tmp_path: Path) -> None:
    files = KeptFiles(tmp_path)
    rows_ = [{"query": "OAT milk"}, {"keyed_hash": files.key.hash("oat milk")}, {"query": "rice"}, {"roles": {}}]
    files.note_forgotten("oat milk", now=100.0)
    assert files.append(files.uncertain, rows_, since=99.0) == 0
    assert rows(files.uncertain) == [{"query": "rice"}, {"roles": {}}]
    assert files.append(files.uncertain, rows_[:1], since=100.5) == 0
    assert rows(files.uncertain)[-1] == {"query": "OAT milk"}
    assert "oat" not in (tmp_path / "forgotten.jsonl").read_text().lower()


def test_nothing_is_made_where_every_row_is_left_out(tmp_path: Path) -> None:
    """A table without rows cannot be read."""
    files = KeptFiles(tmp_path)
    files.note_forgotten("oat milk", now=100.0)
    files.append(files.uncertain, [{"query": "oat milk"}], since=99.0)
    assert not files.uncertain.exists()


def test_notes_go_after_a_day(tmp_path: Path) -> None:
    files = KeptFiles(tmp_path)
    for now in (0.0, 10.0, DAY_S + 5.0):
        files.note_forgotten(f"query of {now}", now=now)
    assert [r["at"] for r in rows(tmp_path / "forgotten.jsonl")] == [10.0, DAY_S + 5.0]


def killed_while_writing(folder: Path) -> None:
    files = KeptFiles(folder)
    with files._locked():
        handle = os.open(files.uncertain, os.O_WRONLY | os.O_APPEND)
        os.write(handle, b'{"query": "half a li')
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_leaves_neither_the_lock_nor_half_a_line(tmp_path: Path) -> None:
    files = KeptFiles(tmp_path)
    files.append(files.uncertain, [{"query": "a"}], since=0.0)
    process = SPAWN.Process(target=killed_while_writing, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert files.append(files.uncertain, [{"query": "b"}], since=0.0) == 0
    assert rows(files.uncertain) == [{"query": "a"}, {"query": "b"}]


def killed_while_removing(folder: Path) -> None:
    files = KeptFiles(folder)
    os.replace = os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    files.remove(files.uncertain, lambda row: row["query"] == "a")


def test_a_removal_that_was_killed_has_changed_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    files = KeptFiles(tmp_path)
    files.append(files.uncertain, [{"query": "a"}, {"query": "b"}], since=0.0)
    process = SPAWN.Process(target=killed_while_removing, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [r["query"] for r in rows(files.uncertain)] == ["a", "b"]
    assert files.remove(files.uncertain, lambda row: row["query"] == "a") == 1
    assert [r["query"] for r in rows(files.uncertain)] == ["b"]
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_full_disk_loses_the_rows_and_says_so(tmp_path: Path) -> None:
    files = KeptFiles(tmp_path)
    files.uncertain.symlink_to("/dev/full")
    assert files.append(files.uncertain, [{"query": "a"}, {"query": "b"}], since=0.0) == 2
    files.uncertain.unlink()
    assert files.append(files.uncertain, [{"query": "c"}], since=0.0) == 0
    assert rows(files.uncertain) == [{"query": "c"}]


def test_a_file_without_rows_is_removed_and_lines_that_are_no_rows_stay(tmp_path: Path) -> None:
    files = KeptFiles(tmp_path)
    files.uncertain.write_text('not JSON\n{"query": "a"}\n')
    assert files.remove(files.uncertain, lambda _: True) == 1
    assert files.uncertain.read_text() == "not JSON\n"
    files.uncertain.write_text('{"query": "a"}\n')
    assert files.remove(files.uncertain, lambda _: True) == 1
    assert list(tmp_path.glob("*.jsonl")) == []


@pytest.mark.parametrize(("days", "left"), [(1, ["2025-12-31", "2026-01-01"]), (2, [f"2025-12-{d}" for d in (30, 31)])])
def test_files_of_days_and_uncertain_queries_expire(tmp_path: Path, days: int, left: list[str]) -> None:
    files = KeptFiles(tmp_path)
    for folder in (files.captures, files.feedback):
        folder.mkdir()
        for day in ("2025-12-29", "2025-12-30", "2025-12-31", "2026-01-01", "notes"):
            (folder / f"{day}.jsonl").write_text("{}\n")
    ages = [3 * DAY_S, 1.5 * DAY_S, 10.0]
    files.append(files.uncertain, [{"query": str(age), "at": NOON - age} for age in ages], since=0.0)
    files.expire(days=days, now=NOON)
    for folder in (files.captures, files.feedback):
        kept = {p.stem for p in folder.glob("*.jsonl")}
        assert {*left, "notes"} <= kept
        assert "2025-12-29" not in kept
        assert ("2025-12-30" in kept) == (days == 2)
    assert [r["query"] for r in rows(files.uncertain)] == [str(age) for age in ages if age < days * DAY_S]
    assert list(read_captures(tmp_path / "none")) == []

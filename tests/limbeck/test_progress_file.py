from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from limbeck.artefacts import RunFolder
from limbeck.inputs import Inputs
from limbeck.progress_display import ProgressDisplay
from limbeck.progress_file import Running, progress_on_disk, running
from limbeck.rounds.folders import round_folder
from limbeck.run import Run
from limbeck.stage import Stage, execute_shown
from task.files import read_json, write_json
from tests.conftest import make_task

CHILD = """
import sys, time
from pathlib import Path
from limbeck.progress_display import ProgressDisplay
from limbeck.progress_file import progress_on_disk
display = ProgressDisplay()
display.stage("train", 5, 8)
display.begin("training", 40)
with progress_on_disk(Path(sys.argv[1]), display):
    print("there", flush=True)
    time.sleep(600)
"""


def test_a_stage_that_runs_is_seen_from_outside_and_leaves_nothing(tmp_path: Path) -> None:
    seen: list[Running | None] = []

    def work(run: Run, _folder: Path) -> dict[str, int]:
        run.progress.begin("asking", 10, 3)
        until = time.monotonic() + 30
        while not (found := running(run.files.progress)) or not found.text:
            assert time.monotonic() < until
            time.sleep(0.05)
        seen.append(found)
        return {}

    task = make_task()
    run = Run(task, RunFolder(tmp_path), Inputs(task, tmp_path / "sample"), ProgressDisplay())
    stage = Stage(
        name="s", config=lambda _run: 1, inputs=lambda _run: {}, work=work, headline=lambda _figures: "all is well"
    )
    execute_shown(stage, run, number=2, of=6)
    (found,) = seen
    assert found is not None
    assert (found.stage, found.number, found.of, found.text) == ("s", 2, 6, "asking")
    assert (found.done, found.total, found.pid) == (3, 10, os.getpid())
    assert not (tmp_path / "progress.json").exists()
    assert read_json(tmp_path / "s" / "manifest.json")["headline"] == "all is well"


def test_a_stage_that_fails_leaves_nothing_either(tmp_path: Path) -> None:
    file = tmp_path / "progress.json"

    def fail() -> None:
        with progress_on_disk(file, ProgressDisplay()):
            assert file.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not file.exists()


def test_the_file_of_a_killed_process_is_known_to_be_stale(tmp_path: Path) -> None:
    file = tmp_path / "progress.json"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(file)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "there\n"
    found = running(file)
    assert found is not None
    assert (found.pid, found.stage, found.total) == (child.pid, "train", 40)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert file.exists()
    assert running(file) is None
    # Another process has the number by now.
    write_json(file, json.loads(file.read_text()) | {"pid": os.getpid()})
    assert running(file) is None


def test_a_process_on_another_machine_is_believed_for_a_minute(tmp_path: Path) -> None:
    file = tmp_path / "progress.json"
    with progress_on_disk(file, ProgressDisplay()):
        away = read_json(file) | {"host": "elsewhere", "pid": 1}
    write_json(file, away)
    assert running(file) is not None
    write_json(file, away | {"at": time.time() - 3_600})
    assert running(file) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x00"])
def test_what_is_no_progress_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "progress.json").write_text(content)
    assert running(tmp_path / "progress.json") is None
    assert running(tmp_path / "nowhere.json") is None


def test_a_round_tells_in_the_folder_of_its_run(tmp_path: Path) -> None:
    assert round_folder(tmp_path, 3).progress == RunFolder(tmp_path).progress

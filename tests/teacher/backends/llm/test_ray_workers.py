"""Labelling on Ray Data workers: the same rows as in one process, also when a worker dies."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from task.errors import InputError
from task.spec import Task
from teacher.ledger.ledger import Ledger
from tests.llm_client.fake_api import FakeApi
from tests.teacher.test_label import llm_task, queries, run

pytestmark = pytest.mark.slow


def on_ray(task: Task, workers: int = 2) -> Task:
    return task.model_copy(update={"teacher": task.teacher.model_copy(update={"workers": workers})})


def workers_of_this_run() -> list[psutil.Process]:
    out = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "LabelBlock" in " ".join(child.cmdline()):
                out.append(child)
    return out


def kill_one_when(api: FakeApi, calls: int, killed: list[int]) -> None:
    while sum(api.calls.values()) < calls:
        time.sleep(0.01)
    for process in workers_of_this_run()[:1]:
        os.kill(process.pid, signal.SIGKILL)
        killed.append(process.pid)


def test_two_workers_one_of_them_killed_give_the_rows_of_one_process(tmp_path: Path) -> None:
    log = queries(1_500)
    with FakeApi() as api:
        api.delay_s = 0.05
        alone = run(llm_task(api.url), log, tmp_path / "alone")
        before = sum(api.calls.values())
        killed: list[int] = []
        watcher = threading.Thread(target=kill_one_when, args=(api, before + 500, killed), daemon=True)
        watcher.start()
        together = run(on_ray(llm_task(api.url, concurrency=8)), log, tmp_path / "together")
        watcher.join(10)
        calls = sum(api.calls.values()) - before
    assert killed
    assert together.rows == alone.rows
    assert len(log) <= calls <= len(log) + 2 * 8  # only calls in flight at the kill are asked twice
    with Ledger(tmp_path / "together" / "ledger.sqlite") as ledger:
        assert sum(a["outcome"] == "ok" for a in ledger.attempts()) <= calls


def test_the_budget_holds_over_all_workers(tmp_path: Path) -> None:
    with FakeApi() as api:
        task = on_ray(llm_task(api.url, budget=0.02, concurrency=4))
        with pytest.raises(InputError, match="the budget is spent"):
            run(task, queries(600), tmp_path)
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            assert 0 < ledger.spent()["cost"] <= 0.02

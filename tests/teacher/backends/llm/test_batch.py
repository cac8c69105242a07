"""The batch API: half the price, and a kill in any state costs nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from task.errors import ComponentError, InputError
from task.spec import Task
from teacher.ledger.ledger import Ledger
from tests.llm_client.fake_api import PURPOSES, FakeApi
from tests.teacher.test_label import llm_task, queries, run


def batch_task(url: str, **openai: Any) -> Task:
    task = llm_task(url, batch_poll_s=0.01, **openai)
    return task.model_copy(update={"teacher": task.teacher.model_copy(update={"backend": "openai-batch"})})


def test_only_what_is_missing_goes_into_the_next_batch(tmp_path: Path) -> None:
    kinds = {"thing0": "400", "thing1": "not-json", "thing2": "expired", "thing3": "500"}

    def behaviour(query: str, nth: int) -> str:
        kind = kinds.get(query.split()[0], "ok")
        return kind if nth == 1 or kind == "400" else "ok"

    log = queries(10)
    with FakeApi(behaviour) as api:
        done = run(batch_task(api.url), log, tmp_path)
        assert [r.status for r in done.rows] == ["failed"] + ["accepted"] * 9
        assert len(api.batches) == 2
        assert {q.query: api.calls[q.query] for q in log[:5]} == {
            "thing0 milk": 1, "thing1 milk": 2, "thing2 milk": 2, "thing3 milk": 2, "thing4 milk": 1,
        }
        assert done.spent["prompt_tokens"] + done.spent["completion_tokens"] == api.tokens
        again = run(batch_task(api.url), log[1:], tmp_path)
        live = run(llm_task(api.url), log[1:], tmp_path)  # stored replies are shared with the other backend
        assert len(api.batches) == 2
    assert again.rows == live.rows == done.rows[1:]


def test_files_are_cut_to_size_and_a_budget_is_hard(tmp_path: Path) -> None:
    with FakeApi() as api:
        run(batch_task(api.url, batch_requests=4), queries(10), tmp_path)
        assert [api.files[b["input"]].count("\n") for b in api.batches.values()] == [4, 4, 2]
        with pytest.raises(InputError, match="the budget is spent"):
            run(batch_task(api.url, budget=0.008, temperature=0.5), queries(100), tmp_path)
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            assert 0.0012 < ledger.spent()["cost"] <= 0.008


def test_a_verification_that_cannot_be_read_is_paid_for_once_a_job(tmp_path: Path) -> None:
    def unreadable(body: dict[str, Any], completion: dict[str, Any]) -> dict[str, Any]:
        if body["messages"][0]["content"].startswith(PURPOSES["verify"]):
            completion["choices"][0]["message"]["content"] = "All of them are fine."
        return completion

    with FakeApi() as api:
        api.shape = unreadable
        done = run(batch_task(api.url, verify=True), queries(4), tmp_path)
        assert [r.status for r in done.rows] == ["accepted"] * 4
        assert done.spent["attempts"] == 8  # a label and a verification each
        for _ in range(3):  # the next job tries these once more, and none after it
            run(batch_task(api.url, verify=True), queries(4), tmp_path)
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            assert ledger.spent()["attempts"] == 12


def test_a_refused_batch_says_why_and_is_not_waited_for_again(tmp_path: Path) -> None:
    with FakeApi() as api:
        api.refuse = "the file is too large"
        with pytest.raises(ComponentError, match="the file is too large"):
            run(batch_task(api.url), queries(3), tmp_path)
        api.refuse = None
        assert [r.status for r in run(batch_task(api.url), queries(3), tmp_path).rows] == ["accepted"] * 3


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.teacher.backends.llm.test_batch import batch_task, queries, run
run(batch_task({url!r}), queries(6), Path({folder!r}))
"""


@pytest.mark.parametrize("state", ["upload", "make", "in_progress", "completed", "content"])
def test_a_kill_in_any_state_pays_for_nothing_twice(tmp_path: Path, state: str) -> None:
    with FakeApi() as api:
        api.slow_to_say = state
        script = SCRIPT.format(root=str(Path(__file__).resolve().parents[4]), url=api.url, folder=str(tmp_path))
        process = subprocess.Popen([sys.executable, "-c", script])
        while api.slow_to_say not in api.events and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        api.slow_to_say = None
        done = run(batch_task(api.url), queries(6), tmp_path)
        assert [r.status for r in done.rows] == ["accepted"] * 6
        assert set(api.paid.values()) == {1}
        assert len(api.batches) == 1

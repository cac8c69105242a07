"""The labelling job against an API with faults: nothing is lost, nothing is paid for twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llm_client.context import EMPTY
from llm_client.prompt import Prompter
from task.errors import InputError
from task.labels import Example
from task.spec import Task
from teacher.backends.job import Sources
from teacher.label import label_queries
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import LedgerRow
from tests.conftest import make_task
from tests.llm_client.fake_api import FakeApi

PROMPT = Path("configs/prompts/label.j2").resolve()


def llm_task(url: str, **openai: Any) -> Task:
    settings = {"base_url": url, "model": "m", "prompt": str(PROMPT), "timeout_s": 5.0, "concurrency": 8,
                "price_input_per_million": 1.0, "price_output_per_million": 2.0} | openai
    return make_task(teacher={"backend": "openai", "openai": settings})


@dataclass
class Done:
    """A job's result after its ledger was closed."""

    rows: list[LedgerRow]
    spent: Mapping[str, float]


def run(task: Task, log: list[Example], folder: Path) -> Done:
    with Ledger(folder / "ledger.sqlite") as ledger:
        done = label_queries(task, Sources(log), ledger, folder, fetch=Path)
        return Done(list(done.rows), done.spent)


def queries(n: int) -> list[Example]:
    return [Example(f"thing{i} milk", count=n - i) for i in range(n)]


BEHAVIOURS = ["ok", "fenced", "400", "429", "500", "disconnect", "timeout", "truncated", "not-json", "wrong-role"]


def test_every_row_has_a_status_and_the_ledger_agrees_with_the_server(tmp_path: Path) -> None:
    log = queries(5 * len(BEHAVIOURS))

    def behaviour(query: str, nth: int) -> str:
        kind = BEHAVIOURS[int(query.split()[0][5:]) % len(BEHAVIOURS)]
        return "ok" if nth > 1 and kind not in {"400", "truncated", "wrong-role"} else kind

    with FakeApi(behaviour) as api:
        done = run(llm_task(api.url, timeout_s=1.0), log, tmp_path)
    assert [r.query for r in done.rows] == [q.query for q in log]
    status = {BEHAVIOURS[i % len(BEHAVIOURS)]: r.status for i, r in enumerate(done.rows)}
    failed = {"400": "failed", "truncated": "failed", "wrong-role": "partial"}
    assert status == {kind: failed.get(kind, "accepted") for kind in BEHAVIOURS}
    assert done.spent["prompt_tokens"] + done.spent["completion_tokens"] == api.tokens
    assert done.spent["attempts"] == sum(api.calls.values())
    for i, q in enumerate(log):
        again = BEHAVIOURS[i % len(BEHAVIOURS)] in {"429", "500", "disconnect", "timeout"}
        assert api.calls[q.query] == (2 if again else 1)
    assert api.calls["repair"] == 5  # an unparseable answer is sent back once, without context
    sent_back = [b for b in api.bodies if b["messages"][-1]["content"] == "no idea"]
    assert len(sent_back) == 5
    assert all(q.query not in b["messages"][0]["content"] for b in sent_back for q in log)


def test_an_answer_that_was_cut_is_not_paid_for_again_and_a_refusal_is_tried_again(tmp_path: Path) -> None:
    log = queries(2)
    with FakeApi(lambda query, nth: "truncated" if query.startswith("thing0") else "400" if nth == 1 else "ok") as api:
        first = run(llm_task(api.url), log, tmp_path)
        assert [r.reason for r in first.rows] == ["cut by max_tokens", "no usable reply: HTTP 400: no"]
        again = run(llm_task(api.url), log, tmp_path)
        assert [(r.status, r.reason) for r in again.rows] == [("failed", "cut by max_tokens"), ("accepted", "")]
        assert dict(api.calls) == {"thing0 milk": 1, "thing1 milk": 2}
        longer = run(llm_task(api.url, max_tokens=900), log, tmp_path)  # another request, so it is asked
        assert api.calls["thing0 milk"] == 2
    assert [r.status for r in longer.rows] == ["failed", "accepted"]


def test_a_second_run_asks_nothing_and_a_changed_request_asks_again(tmp_path: Path) -> None:
    log = queries(10)
    with FakeApi() as api:
        first = run(llm_task(api.url), log, tmp_path)
        again = run(llm_task(api.url, concurrency=2, timeout_s=9.0), log, tmp_path)
        assert sum(api.calls.values()) == 10
        assert again.rows == first.rows
        run(llm_task(api.url, temperature=0.5), log, tmp_path)
        assert sum(api.calls.values()) == 20


def test_the_budget_stops_the_job_and_what_was_paid_is_kept(tmp_path: Path) -> None:
    log = queries(100)
    with FakeApi() as api:
        task = llm_task(api.url, budget=0.01)  # 0.00012 a call; the most that a call could cost is reserved first
        with pytest.raises(InputError, match="the budget is spent"):
            run(task, log, tmp_path)
        paid = sum(api.calls.values())
        assert 0 < paid < 100
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            assert ledger.spent()["cost"] == pytest.approx(paid * 0.00012)
            assert ledger.spent()["cost"] <= 0.01
        done = run(llm_task(api.url, budget=1.0), log, tmp_path)
        assert sum(api.calls.values()) == 100
    assert all(r.status == "accepted" for r in done.rows)


def test_a_budget_that_is_enough_lets_every_call_be_made(tmp_path: Path) -> None:
    """Many calls are in flight, and each reserves twenty times what it costs."""
    log = queries(100)
    with FakeApi() as api:
        api.delay_s = 0.01
        task = llm_task(api.url, concurrency=64)
        most = Prompter(task).first(log[-1].query, EMPTY)[0].most_tokens
        reserved = (most[0] + 2 * most[1]) / 1e6
        assert reserved > 20 * 0.00012
        done = run(llm_task(api.url, concurrency=64, budget=100 * 0.00012 + reserved), log, tmp_path)
    assert [r.status for r in done.rows] == ["accepted"] * 100


def test_long_and_empty_queries_are_skipped_with_a_reason(tmp_path: Path) -> None:
    log = [Example("oat milk"), Example("x" * 10_000), Example("   "), Example("oat milk", count=4)]
    with FakeApi() as api:
        done = run(llm_task(api.url), log, tmp_path)
    assert [(r.status, r.count) for r in done.rows] == [("accepted", 5), ("skipped", 1), ("skipped", 1)]
    assert "10000 characters" in done.rows[1].reason


def test_a_second_job_on_the_same_ledger_is_refused_and_asks_nobody(tmp_path: Path) -> None:
    with FakeApi() as api, Ledger(tmp_path / "ledger.sqlite") as first, first.writing():
        with pytest.raises(InputError, match="another labelling job is writing this ledger"):
            run(llm_task(api.url), [Example("oat milk")], tmp_path)
        assert api.bodies == []
    with FakeApi() as api:
        assert [r.status for r in run(llm_task(api.url), [Example("oat milk")], tmp_path).rows] == ["accepted"]


@pytest.mark.parametrize(("rows", "asked"), [(4, 1), (5, 6)])
def test_calibration_rows_are_asked_about_where_there_are_enough_to_calibrate_on(
    rows: int, asked: int, tmp_path: Path
) -> None:
    gold = [Example(f"gold {i}") for i in range(rows)]
    with FakeApi() as api, Ledger(tmp_path / "ledger.sqlite") as ledger:
        task = llm_task(api.url, context=[])
        settings = task.teacher.confidence.model_copy(update={"min_rows": 5})
        task = task.model_copy(update={"teacher": task.teacher.model_copy(update={"confidence": settings})})
        label_queries(task, Sources([Example("oat milk")], calibration=gold), ledger, tmp_path, Path)
        assert len(api.bodies) == asked

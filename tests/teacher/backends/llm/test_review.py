"""The second look: its requests, that each is paid for once, and that the ledger's rows do not change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_client.budget import BudgetSpentError
from llm_client.prompt import Prompter
from task.errors import InputError
from task.labels import Doubt, Example, Label
from task.load import load_task
from teacher.backends.job import Sources
from teacher.backends.llm.review import question, review
from teacher.label import label_queries
from teacher.ledger.ledger import Ledger
from tests.llm_client.fake_api import REPAIRED, FakeApi
from tests.teacher.test_label import llm_task

QUERIES = ["verdant oat milk", "kora tea", "zing soap"]


def test_a_doubt_is_told_in_words() -> None:
    assert question("oat milk", Doubt("product", 0, 3), said="product", instead="nothing") == (
        "- 'oat': you said product, they say no role"
    )
    assert question("oat milk", Doubt("", 0, 3), said="", instead="brand") == (
        "- 'oat': you said no role, they say brand"
    )
    assert question("oat milk", Doubt("aisle"), said="dairy", instead="drinks") == (
        "- aisle: you said dairy, they say drinks"
    )
    assert "more or fewer words" in question("oat milk", Doubt("brand", 0, 3), said="brand", instead="brand")


def test_the_teacher_sees_its_labels_and_the_doubt_and_is_paid_once(tmp_path: Path) -> None:
    doubts = {q: ["- it is doubted"] for q in QUERIES[:2]}

    def second_thought(query: str) -> str:
        return "no idea" if "kora" in query else json.dumps({"labels": [{"role": "brand", "text": "verdant"}]})

    with FakeApi() as api, Ledger(tmp_path / "ledger.sqlite") as ledger:
        task, sources = llm_task(api.url), Sources([Example(q) for q in QUERIES])
        label_queries(task, sources, ledger, tmp_path, fetch=Path)
        before, paid = ledger.rows(QUERIES), ledger.spent()["cost"]
        api.second_thought = second_thought
        api.bodies.clear()
        found = review(task, sources, ledger, tmp_path, Path, doubts)
        body = next(b for b in api.bodies if b["messages"][1:2] == [{"role": "user", "content": QUERIES[0]}])
        assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user"]
        assert json.loads(body["messages"][2]["content"])["labels"] == [{"role": "product", "text": "milk"}]
        assert "- it is doubted" in body["messages"][3]["content"]
        assert found[QUERIES[0]].labels[0].key == Label("brand", "verdant", 0, 7).key
        assert set(found) == set(QUERIES[:2])
        assert found["kora tea"].labels == ()  # an unparseable answer was sent back once, and came back as REPAIRED
        assert json.loads(REPAIRED) == {"labels": []}
        assert ledger.rows(QUERIES) == before
        assert ledger.spent()["cost"] > paid
        calls = api.calls.copy()
        assert review(task, sources, ledger, tmp_path, Path, doubts) == found
        assert api.calls == calls


def test_a_query_that_was_never_answered_is_not_asked_about(tmp_path: Path) -> None:
    with FakeApi() as api, Ledger(tmp_path / "ledger.sqlite") as ledger:
        found = review(llm_task(api.url), Sources([]), ledger, tmp_path, Path, {"oat milk": ["- it is doubted"]})
    assert found == {}
    assert not api.calls


def test_a_backend_that_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(
        "name: t\nroles: [{name: a}]\ndata: {dir: ., labels: l.jsonl}\nteacher: {backend: labels}\n"
        "curriculum: {cross_fit: {action: ask}}\n"
    )
    with pytest.raises(InputError, match="can be asked again"):
        load_task(tmp_path / "task.yaml")


def test_when_the_budget_ends_what_was_asked_is_still_recorded(tmp_path: Path) -> None:
    doubts = {q: ["- it is doubted"] for q in QUERIES}
    with FakeApi() as api, Ledger(tmp_path / "ledger.sqlite") as ledger:
        task, sources = llm_task(api.url), Sources([Example(q) for q in QUERIES])
        label_queries(task, sources, ledger, tmp_path, fetch=Path)
        api.second_thought = lambda query: json.dumps({"labels": []})
        said = json.dumps({"labels": [{"role": "product", "text": max((q.split()[-1] for q in QUERIES), key=len)}]})
        requests = [
            Prompter(task).review(json.dumps(body), answer=said, doubts=doubts[QUERIES[0]]) for body in api.bodies
        ]
        most = max(r.most_tokens[0] * 1.0 + r.most_tokens[1] * 2.0 for r in requests) / 1e6
        poor = llm_task(api.url, budget=ledger.spent()["cost"] + most + 0.00006)  # for one call
        with pytest.raises(BudgetSpentError):
            review(poor, sources, ledger, tmp_path, Path, doubts)
        recorded = {c["purpose"]: c["attempts"] for c in ledger.costs("purpose")}
        assert 0 < recorded["review"] == api.calls["review"] < len(QUERIES)

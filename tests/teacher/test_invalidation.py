"""The cost of a change: only rows whose request changed are asked again, everything else is free."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from task.labels import Example
from task.model_store import fetch
from task.readers import Conversion, Item
from task.spec import Task
from teacher.backends.job import LabellingPlan, Sources
from teacher.label import label_queries, plan_labelling
from teacher.ledger.ledger import Ledger
from tests.conftest import make_task
from tests.llm_client.fake_api import FakeApi
from tests.teacher.test_label import PROMPT

KINDS = ["oat milk", "toilet tissue", "cheddar", "red apples", "dish soap", "rye bread", "green tea", "cat food"]
BRANDS = ["verdant", "acme", "oakfield", "brightway", "harbour", "lumo", "petrel", "quill"]
ITEMS = [Item(f"{b}-{k}", f"{b} {k}", b, f"Food > {k}") for b, k in zip(BRANDS * 3, KINDS * 3, strict=True)]
ITEMS = [replace(x, id=str(i)) for i, x in enumerate(ITEMS)]
ROLES = [{"name": "brand", "catalogue": "brand", "grounded": True, "multiple": False}, {"name": "product"}]


def make(url: str, **openai: Any) -> Task:
    settings = {"base_url": url, "model": "m", "prompt": str(PROMPT), "context": ["items", "bought"]} | openai
    retrieval = {"items": 2, "neighbours": 0}
    return make_task(roles=ROLES, teacher={"backend": "openai", "openai": settings, "retrieval": retrieval})


def plan(task: Task, sources: Sources, folder: Path) -> LabellingPlan:
    with Ledger(folder / "ledger.sqlite") as ledger:
        return plan_labelling(task, sources, ledger, folder, fetch)


@pytest.mark.slow
def test_a_change_asks_again_only_the_rows_that_it_touches(tmp_path: Path) -> None:
    log = [Example(f"{kind} {word}") for kind in KINDS for word in ("cheap", "large", "best")]
    bought = [Conversion(q.query, str(i % len(ITEMS)), 2) for i, q in enumerate(log) if i % 4 == 0]
    sources = Sources(log, ITEMS, bought)
    with FakeApi() as api, Ledger(tmp_path / "ledger.sqlite") as ledger:
        task = make(api.url)
        label_queries(task, sources, ledger, tmp_path, fetch)
        shown = {a["query"]: a["evidence"] for a in ledger.attempts()}
        asked = sum(api.calls.values())

        unchanged = plan(task, sources, tmp_path)
        assert (unchanged.ask, unchanged.revalidate, unchanged.unchanged) == ([], [], len(log))

        renamed = [replace(x, title=x.title.replace("lumo", "lumi"), brand="lumi") if x.brand == "lumo" else x
                   for x in ITEMS]
        changed = plan(task, Sources(log, renamed, bought), tmp_path)
        assert set(changed.ask) == {q for q, evidence in shown.items() if "lumo" in evidence}
        assert 0 < len(changed.ask) < len(log) / 2
        assert len(changed.revalidate) == len(log) - len(changed.ask)  # what is grounded changed: free

        guarded = task.model_copy(update={"roles": tuple(
            r.model_copy(update={"guard": r.guard.model_copy(update={"fuzzy": 95.0})}) for r in task.roles
        )})
        assert plan(guarded, sources, tmp_path).ask == []
        assert len(plan(guarded, sources, tmp_path).revalidate) == len(log)
        label_queries(guarded, sources, ledger, tmp_path, fetch)
        assert sum(api.calls.values()) == asked

        assert len(plan(make(api.url, temperature=0.3), sources, tmp_path).ask) == len(log)
        more = plan(make(api.url, verify=True), sources, tmp_path)
        assert (len(more.ask), more.calls, more.reasons) == (len(log), len(log), {"another signal is wanted": len(log)})
        one_more = plan(task, replace(sources, log=[*log, Example("blue cheese")]), tmp_path)
        assert (list(one_more.ask), one_more.reasons) == (["blue cheese"], {"new": 1})

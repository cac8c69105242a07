"""Contexts without an index are composed as those with one: the same kinds, as many entries, the same budget."""

from __future__ import annotations

from typing import Any

from llm_client.context import EMPTY
from task.labels import Example, Label
from task.readers import Conversion, Item
from task.spec import Task
from teacher.backends.job import Sources
from teacher.backends.llm.plan_ahead import plan_ahead
from teacher.backends.llm.typical_contexts import typical_contexts
from teacher.retrieval.context import SHOWN, tokens_of
from tests.conftest import make_task
from tests.teacher.test_label import PROMPT, llm_task

KINDS = ["oat milk", "rye bread", "dish soap", "green tea"]
ITEMS = [Item(f"{k}{i}", f"maker{i} {k}", f"maker{i}", f"Food > {k}") for k in KINDS for i in range(20)]
ROLES = [{"name": "brand", "catalogue": "brand", "grounded": True}, {"name": "product", "catalogue": "category.leaf"}]
LOG = [Example(f"cheap {k}") for k in KINDS]
BOUGHT = [Conversion(f"{word} {k}", f"{k}{i}", 9 - i) for word in ("cheap", "best") for k in KINDS for i in range(7)]
GOLD = [Example(f"fine {k}", (Label("product", k),)) for k in KINDS * 3]


def sources(**more: Any) -> Sources:
    return Sources(LOG, ITEMS, BOUGHT, **({"calibration": GOLD} | more))


def task_of(**openai: Any) -> Task:
    return make_task(roles=ROLES, teacher={"backend": "openai", "openai": {"prompt": str(PROMPT), **openai}})


def test_a_context_has_each_kind_in_the_number_that_retrieval_shows() -> None:
    (first, *_) = typical_contexts(task_of(few_shot=3, context_tokens=5_000), sources(), LOG)
    assert first["bought"] == [f"maker{i} oat milk" for i in range(SHOWN["bought"])]  # what was bought, in its order
    assert len(first["items"]) == SHOWN["items"]
    assert all("oat milk" in title for title in first["items"])
    assert len(first["examples"]) == 3
    assert all(e["query"] != "cheap oat milk" for e in first["examples"])
    assert 0 < len(first["neighbours"]) <= SHOWN["neighbours"]
    assert set(first["converted"]) == {"brand", "product"}
    assert [len(v) for v in first["similar"].values()] == [SHOWN["similar"]]


def test_held_out_gold_is_not_shown_and_the_budget_of_tokens_holds() -> None:
    held = frozenset(g.query for g in GOLD)
    task = task_of(context_tokens=40)
    for context in typical_contexts(task, sources(held_out=held), LOG):
        assert context["examples"] == []
        entries = [*context["bought"], *context["items"], *context["neighbours"]]
        entries += [v for kind in ("converted", "similar") for values in context[kind].values() for v in values]
        assert 0 < sum(map(tokens_of, entries)) <= 40


def test_without_anything_to_search_contexts_are_empty() -> None:
    task = llm_task("http://127.0.0.1:9/v1", context=[])
    assert typical_contexts(task, Sources(LOG, ITEMS), LOG) == [EMPTY] * 4
    task = llm_task("http://127.0.0.1:9/v1")
    assert typical_contexts(task, Sources(LOG), LOG) == [EMPTY] * 4


def test_a_plan_is_the_same_every_time_and_grows_with_the_log() -> None:
    task = llm_task("http://127.0.0.1:9/v1", verify=True)
    many = [Example(f"thing{i} {KINDS[i % 4]}") for i in range(900)]
    first, again = (plan_ahead(task, sources(), many) for _ in range(2))
    assert first == again
    assert first.likely.calls == 1_800
    half = plan_ahead(task, sources(), many[:450])
    assert 0.45 < half.likely.prompt / first.likely.prompt < 0.55
    assert first.most[0] > first.likely.prompt / first.likely.calls

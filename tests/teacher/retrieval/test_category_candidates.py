"""A role with too many values to list: the prompt has candidates for the query, and an LLM chooses among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_client.context import EMPTY
from llm_client.prompt import Prompter
from task.labels import Example
from task.progress import quiet
from task.readers import Conversion, Item
from task.role import MOST_LISTED, Role
from task.spec import Task
from teacher.backends.job import LabellingJob, Sources
from teacher.backends.llm.contexts import blocks
from teacher.backends.llm.typical_contexts import typical_contexts
from teacher.label import label_queries
from teacher.ledger.ledger import Ledger
from tests.conftest import make_task
from tests.llm_client.fake_api import FakeApi
from tests.teacher.test_label import PROMPT

PATHS = [f"Shop > Aisle {i // 20} > Thing {i}" for i in range(MOST_LISTED + 20)]
ITEMS = [Item(str(i), f"item {i}", None, path) for i, path in enumerate(PATHS[:40])]
LOG = [Example("thing seven"), Example("something else")]
BOUGHT = [Conversion("thing seven", "7", 5), Conversion("thing seven", "8", 2), Conversion("things", "9", 1)]


def task_of(embedder: Path, url: str = "http://127.0.0.1:9/v1", guard: dict[str, Any] | None = None, **openai: Any
            ) -> Task:
    role = {
        "name": "category", "kind": "closed", "multiple": False, "catalogue": "category", "separator": " > ",
        "values": PATHS, "guard": guard or {},
    }
    return make_task(roles=[role], teacher={
        "backend": "openai", "retrieval": {"embedder": str(embedder)},
        "openai": {"prompt": str(PROMPT), "base_url": url, "model": "m", "few_shot": 0, **openai},
    })


def contexts(task: Task, sources: Sources, folder: Path) -> list[dict[str, Any]]:
    with Ledger(folder / "ledger.sqlite") as ledger:
        job = LabellingJob(task, sources, LOG, ledger=ledger, folder=folder, fetch=Path, progress=quiet)
        return [dict(context) for block in blocks(job) for _, context in block]


def test_candidates_are_the_converted_categories_and_the_paths_nearest_to_the_query(
    embedder_folder: Path, tmp_path: Path
) -> None:
    first, _ = contexts(task_of(embedder_folder), Sources(LOG, ITEMS, BOUGHT), tmp_path)
    assert first["converted"]["category"] == [PATHS[7], PATHS[9], PATHS[8]]  # 5 of 7, half of a neighbour's, 2 of 7
    assert len(first["similar"]["category"]) == 10
    assert set(first["similar"]["category"]) <= set(PATHS)


def test_a_taxonomy_without_a_catalogue_has_candidates_too(embedder_folder: Path, tmp_path: Path) -> None:
    found = contexts(task_of(embedder_folder), Sources(LOG), tmp_path)
    assert [len(c["similar"]["category"]) for c in found] == [10, 10]


@pytest.mark.parametrize(("kinds", "left"), [(["converted"], "converted"), (["similar"], "similar"), ([], None)])
def test_each_kind_can_be_switched_off(kinds: list[str], left: str | None, embedder_folder: Path, tmp_path: Path
                                       ) -> None:
    first, _ = contexts(task_of(embedder_folder, context=kinds), Sources(LOG, ITEMS, BOUGHT), tmp_path)
    assert [k for k in ("converted", "similar") if first[k]] == ([left] if left else [])


def test_categories_that_the_task_does_not_have_are_no_candidates(embedder_folder: Path, tmp_path: Path) -> None:
    items = [Item("7", "item", None, "Other shop > Thing"), *ITEMS[:7], *ITEMS[8:]]
    first, _ = contexts(task_of(embedder_folder), Sources(LOG, items, BOUGHT), tmp_path)
    assert first["converted"]["category"] == [PATHS[9], PATHS[8]]


def test_a_prompt_has_the_candidates_and_no_other_value(embedder_folder: Path) -> None:
    task = task_of(embedder_folder)
    context = typical_contexts(task, Sources(LOG, ITEMS, BOUGHT), LOG)[0]
    (request, *_) = Prompter(task).first("thing seven", context)
    prompt = json.loads(request.content)["messages"][0]["content"]
    shown = {p for p in PATHS if p in prompt.replace(";", "\n").splitlines() or f"{p};" in prompt or f"{p}\n" in prompt}
    assert shown == {*context["converted"]["category"], *context["similar"]["category"]}
    assert "one of those listed for it below" in prompt


def test_without_candidates_the_llm_is_told_to_leave_the_role_out(embedder_folder: Path) -> None:
    """As for a query that a service asks about, which has no context."""
    (request, *_) = Prompter(task_of(embedder_folder)).first("thing seven", EMPTY)
    prompt = json.loads(request.content)["messages"][0]["content"]
    assert "- category: see its name (leave it out)" in prompt
    assert not any(p in prompt for p in PATHS)


@pytest.mark.parametrize(("values", "separator", "short"), [
    (MOST_LISTED, " > ", False), (MOST_LISTED + 1, " > ", True), (1_000, None, False), (1_001, None, True),
])
def test_a_role_is_shortlisted_where_a_prompt_could_not_list_it(values: int, separator: str | None, short: bool
                                                                ) -> None:
    role = Role(
        name="category", kind="closed", multiple=False, separator=separator, values=tuple(map(str, range(values)))
    )
    assert role.shortlisted is short


def test_the_llm_chooses_a_candidate_and_what_is_no_category_is_rejected(embedder_folder: Path, tmp_path: Path) -> None:
    def shape(body: dict[str, Any], completion: dict[str, Any]) -> dict[str, Any]:
        prompt, query = (m["content"] for m in body["messages"])
        listed = next(line for line in prompt.splitlines() if line.startswith("Most bought category: "))
        chosen = listed.removeprefix("Most bought category: ").split("; ")[1]
        text = chosen if query == "thing seven" else "Garden > Shed"
        labels = {"labels": [{"role": "category", "text": text}]}
        completion["choices"][0]["message"]["content"] = json.dumps(labels)
        return completion

    log = [Example("thing seven"), Example("things")]
    with FakeApi() as api, Ledger(tmp_path / "ledger.sqlite") as ledger:
        api.shape = shape
        task = task_of(embedder_folder, api.url)
        rows = list(label_queries(task, Sources(log, ITEMS, BOUGHT), ledger, tmp_path, fetch=Path).rows)
    assert {r.query: (r.status, [x.text for x in r.labels]) for r in rows} == {
        "thing seven": ("accepted", [PATHS[9]]), "things": ("partial", []),
    }
    assert rows[0].label_signals[0]["support"] == pytest.approx(0.9)  # second among what was bought

"""What `limbeck audit-context` compares the teacher with."""

from __future__ import annotations

from typing import Any

import pytest

from limbeck.studies.context_audit import ALL, _slice, variants
from task.errors import InputError
from task.labels import Example, Label
from task.spec import Task
from tests.conftest import make_task
from tests.teacher.test_label import PROMPT


def task_of(**guard: Any) -> Task:
    role = {
        "name": "category", "kind": "closed", "multiple": False, "separator": " > ", "values": ["A > B", "A > C"],
        "guard": guard,
    }
    openai = {"prompt": str(PROMPT), "context": ["converted", "similar"]}
    return make_task(roles=[role], teacher={"backend": "openai", "openai": openai})


def test_each_kind_of_context_is_left_out_once() -> None:
    found = variants(task_of())
    assert {name: task.teacher.openai.context for name, task in found.items()} == {
        "all of it": ("converted", "similar"), "without converted": ("similar",), "without similar": ("converted",),
        "none of it": (),
    }


def test_the_guardrail_of_similarity_is_left_out_too_where_the_task_has_it() -> None:
    found = variants(task_of(relevance=0.3))
    relevance = {name: task.role("category").guard.relevance for name, task in found.items()}
    assert relevance == {
        "all of it": 0.3, "without converted": 0.3, "without similar": 0.3, "none of it": 0.3,
        "without guard.relevance": None,
    }
    assert found["without guard.relevance"].teacher == found["all of it"].teacher


def test_imported_labels_have_no_context() -> None:
    with pytest.raises(InputError, match="no context to audit"):
        variants(make_task())


@pytest.mark.parametrize("rows", [1, 9, 10])
def test_a_slice_of_a_few_queries_has_no_intervals(rows: int) -> None:
    """One query, resampled, is always itself: its interval had no width."""
    gold = [Example(f"oat milk {i}", (Label("product", "oat milk", 0, 8),)) for i in range(12)]
    found = {name: [g if i % 3 else Example(g.query) for i, g in enumerate(gold)] for name in ("none of it", ALL)}
    part = _slice(make_task(eval={"resamples": 50}), "head", range(rows), gold, found)
    assert [v["name"] for v in part["variants"]] == [ALL, "none of it"]
    worth = part["variants"][1]["worth"]
    assert worth is not None
    assert worth["value"] == 0.0
    for figure in (part["variants"][0]["f1"], worth):
        assert (figure["low"] is None) == (figure["high"] is None) == (rows < 10)

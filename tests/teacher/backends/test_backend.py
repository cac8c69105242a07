"""Every value of `teacher.backend` has a backend that states its own properties."""

from __future__ import annotations

from typing import get_args

import pytest

from task.settings import Teacher
from task.spec import Task
from teacher.backends.backend import backend_of
from tests.conftest import make_task
from tests.teacher.test_label import PROMPT

NAMES = get_args(Teacher.model_fields["backend"].annotation)


def task_of(name: str, **settings: object) -> Task:
    data = {"dir": ".", "labels": "labels.jsonl", "catalogue": "items.jsonl"}
    roles = [{"name": "brand", "catalogue": "brand"}]
    teacher = {"backend": name, "openai": {"prompt": str(PROMPT)}, **settings}
    return make_task(roles=roles, data=data, teacher=teacher)


@pytest.mark.parametrize("name", NAMES)
def test_every_backend_says_what_it_is(name: str) -> None:
    backend = backend_of(task_of(name))
    assert backend.asks_llm == (name in {"openai", "openai-batch", "vllm"})
    assert backend.local == (name in {"catalog", "labels", "vllm"})
    assert backend.batch == (name == "openai-batch")
    assert backend.uses_whole_log == (name == "catalog")
    assert backend.estimates_confidence == (name != "labels")


@pytest.mark.parametrize("name", [n for n in NAMES if n != "labels"])
def test_the_context_of_a_task_can_be_cut_down(name: str) -> None:
    task = task_of(name)
    backend = backend_of(task)
    kinds = backend.context_kinds(task)
    assert kinds
    less = backend.with_context(task, kinds[1:])
    assert backend.context_kinds(less) == tuple(kinds[1:])
    assert backend.with_context(less, kinds) == task


def test_imported_labels_have_no_context() -> None:
    assert backend_of(task_of("labels")).context_kinds(task_of("labels")) is None


def test_workers_are_another_backend_for_the_same_labels() -> None:
    alone, workers = (backend_of(task_of("openai", workers=n)) for n in (0, 2))
    assert type(alone) is not type(workers)
    assert workers.asks_llm
    assert not workers.local

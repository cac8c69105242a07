"""What is in a request's key, and what is not: whatever could change the reply is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from task.labels import Example
from teacher.backend_openai import OpenAITeacher, labels_of
from tests.teacher.test_label import llm_task

EVIDENCE: dict[str, Any] = {"items": ["Oat Milk 1 l"], "bought": []}


def key(query: str = "oat milk", evidence: dict[str, Any] = EVIDENCE, url: str = "http://a/v1", **settings: Any) -> str:
    return OpenAITeacher(llm_task(url, **settings)).request(query, evidence).key


@pytest.mark.parametrize("change", [
    {"query": "oat milks"}, {"evidence": {"items": ["Oat Milk 2 l"], "bought": []}}, {"url": "http://b/v1"},
    {"model": "n"}, {"temperature": 0.1}, {"max_tokens": 100}, {"structured_output": False},
])
def test_what_could_change_the_reply_changes_the_key(change: dict[str, Any]) -> None:
    assert key(**change) != key()


@pytest.mark.parametrize("change", [
    {"concurrency": 1}, {"timeout_s": 1.0}, {"max_attempts": 1}, {"price_input_per_million": 9.0}, {"budget": 3.0},
    {"api_key_env": "OTHER"},
])
def test_how_it_is_sent_does_not(change: dict[str, Any]) -> None:
    assert key(**change) == key()


def test_the_prompt_and_the_examples_are_in_it(tmp_path: Path) -> None:
    prompt = tmp_path / "p.j2"
    prompt.write_text("Label. {{ task.instructions }}")
    assert key(prompt=str(prompt)) != key()
    teacher = OpenAITeacher(llm_task("http://a/v1"))
    shown = teacher.request("oat milk", EVIDENCE, [Example("rice milk")])
    assert shown.key != teacher.request("oat milk", EVIDENCE).key


@pytest.mark.parametrize(("reply", "rows"), [
    ('{"labels": [{"role": "a"}]}', 1),
    ('```json\n{"labels": []}\n``` there', 0),
    ('[{"role": "a"}, 3]', 1),
    ("I think it is milk", None),
    ('{"labels": "none"}', None),
    ('{"labels": [', None),
])
def test_replies_are_read_tolerantly_and_never_guessed(reply: str, rows: int | None) -> None:
    found = labels_of(reply)
    assert (None if found is None else len(found)) == rows

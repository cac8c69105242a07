"""A request's key contains everything that could change the reply, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_client.context import EMPTY, Context
from llm_client.prompt import Prompter
from llm_client.request import Request
from task.errors import InputError
from tests.conftest import make_task
from tests.teacher.test_label import llm_task

CONTEXT: Context = {**EMPTY, "items": ["Oat Milk 1 l"]}


def make(
    query: str = "oat milk", context: Context = CONTEXT, url: str = "http://a/v1", **settings: Any
) -> list[Request]:
    return Prompter(llm_task(url, **settings)).first(query, context)


@pytest.mark.parametrize("change", [
    {"query": "oat milks"}, {"context": {**EMPTY, "items": ["Oat Milk 2 l"]}}, {"url": "http://b/v1"},
    {"model": "n"}, {"temperature": 0.1}, {"max_tokens": 100}, {"structured_output": False}, {"logprobs": True},
    {"extra_body": {"seed": 3}}, {"context": {**CONTEXT, "examples": [{"query": "rice milk", "labels": []}]}},
])
def test_what_could_change_the_reply_changes_the_key(change: dict[str, Any]) -> None:
    assert make(**change)[0].key != make()[0].key


@pytest.mark.parametrize("change", [
    {"concurrency": 1}, {"timeout_s": 1.0}, {"deadline_s": 1.0}, {"max_attempts": 1}, {"budget": 3.0},
    {"price_input_per_million": 9.0}, {"api_key_env": "OTHER"}, {"requests_per_minute": 5}, {"repair": False},
    {"tokens_per_minute": 5}, {"samples": 3}, {"compare_bare": True}, {"verify": True}, {"context_tokens": 9},
])
def test_how_it_is_sent_and_what_else_is_asked_does_not(change: dict[str, Any]) -> None:
    assert make(**change)[0].key == make()[0].key


def test_every_sampling_parameter_and_the_schema_are_in_the_body_that_is_hashed() -> None:
    body = json.loads(make(samples=3, sample_temperature=0.9)[1].content)
    assert (body["n"], body["temperature"], body["max_tokens"]) == (3, 0.9, 512)
    assert body["response_format"]["json_schema"]["strict"] is True
    purposes = [r.purpose for r in make(samples=2, compare_bare=True)]
    assert purposes == ["label", "samples", "bare"]
    assert "Oat Milk 1 l" not in make(compare_bare=True)[1].content.decode()


def test_the_prompt_and_the_roles_are_in_it(tmp_path: Path) -> None:
    prompt = tmp_path / "p.j2"
    prompt.write_text("Label. {{ task.instructions }}")
    assert make(prompt=str(prompt))[0].key != make()[0].key
    roles = [{"name": "brand", "description": "the maker"}]
    other = make_task(roles=roles, teacher=llm_task("http://a/v1").teacher.model_dump())
    assert Prompter(other).first("oat milk", CONTEXT)[0].key != make()[0].key


def test_no_call_can_use_more_tokens_than_its_budget_reserves() -> None:
    """A token of a byte-level vocabulary is at least one byte."""
    for query in ("oat milk", "牛奶 " * 30):
        request = make(query=query, samples=4)[1]
        assert request.most_tokens[0] >= len(request.content)
        assert request.most_tokens[1] == 4 * 512


def test_a_template_that_fails_says_so_before_anything_is_spent(tmp_path: Path) -> None:
    prompt = tmp_path / "p.j2"
    for text, message in (("{% if %}", "not a Jinja template"), ("{{ evidence }}", "the template fails")):
        prompt.write_text(text)
        with pytest.raises(InputError, match=message):
            make(prompt=str(prompt))

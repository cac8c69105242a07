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

LABEL = Path("configs/prompts/label.j2").resolve()
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


# Computed before roles had a `type` in the schema: with these keys the replies of existing ledgers are found.
PAID: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["17a2932bdb5a22042b4f2fa11cc27d5f2ea7869b76512bff39e5ef733fe206b8"]),
    ({"samples": 3, "compare_bare": True, "logprobs": True}, [
        "406210db6cfe078c86f422067fa8a675e31d13f0fd18d82354428b152908e438",
        "e46c7910e674d5c067b0fd5576775a9f735cf9de4100dc8bbb24f7d10e05e8d5",
        "ff969e6da167942627f334300e0a01cf200ee9af3fc302d3087255d41fe16512",
    ]),
    ({"structured_output": False}, ["f536cd7795e254ad23933d44e99c2e8937f5616cc07c3080cb51b7be0f07f120"]),
    ({"extra_body": {"max_completion_tokens": 200}},
     ["c5c73437d79b6416bd651fe2404881e1064b6c96dfadfcb1c66fa17deca43810"]),
    ({"extra_body": {"temperature": None}}, ["96075190ee9b9b54941d3cf80099ff483009fba17dc9dc0ba567e0123ac6dd71"]),
    ({"extra_body": {"reasoning_effort": None}}, ["edf390d912471c252f6401afd65f1874989b8d31f01c89ce62b2e6996374e9f3"]),
]


@pytest.mark.parametrize(("settings", "keys"), PAID)
def test_what_was_paid_for_under_an_earlier_spelling_is_found(settings: dict[str, Any], keys: list[str]) -> None:
    assert [r.key for r in make(**settings)] == keys


def test_a_paid_verification_and_a_paid_review_are_found() -> None:
    prompter = Prompter(llm_task("http://a/v1", verify=True, logprobs=True))
    first = prompter.first("oat milk", CONTEXT)[0]
    verify = prompter.verify("oat milk", [{"role": "brand", "text": "oat"}])
    assert verify.key == "e79d3ba28a62a4b25a68d5b6b76d5a9970aadd9daf162bdb1432781bd98df387"
    review = prompter.review(first.content.decode(), answer="{}", doubts=["- x"])
    assert review.key == "26ceba79bc015b5311f5341abe527664c18feda7b15d6742535ce0fc716bc5af"


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
    for text, message in (
        ("{% if %}", "not a Jinja template"), ("{{ evidence }}", "the template fails"),
        ("{{ 1 / 0 }}", "the template fails: division by zero"),
        ("a\n{% include 'b.j2' %}", r"p\.j2:2: the template reads another file; found 'include'"),
        ("{% from 'b.j2' import c %}", "reads another file; found 'fromimport'"),
    ):
        prompt.write_text(text)
        with pytest.raises(InputError, match=message):
            make(prompt=str(prompt))


def test_a_text_role_is_asked_for_and_verified_as_other_words() -> None:
    """One request for all roles; what is said about the others is what it was."""
    plain = make_task(teacher={"backend": "openai", "openai": {"prompt": str(LABEL), "verify": True}})
    roles = [r.model_dump() for r in plain.roles]
    texts = [
        {"name": "synonym", "kind": "text", "description": "another name", "most": 3},
        {"name": "broader", "kind": "text", "multiple": False},
    ]
    task = make_task(roles=[*roles, *texts], teacher=plain.teacher.model_dump(), student={"form": "write"})
    said, before = (Prompter(t).first("oat milk", EMPTY) for t in (task, plain))
    assert len(said) == len(before)
    system, other = (json.loads(r[0].content)["messages"][0]["content"] for r in (said, before))
    assert "- synonym: another name (other words for the query, not the query itself; at most 3, " in system
    assert "- broader: see its name (other words for the query, not the query itself; at most one)" in system
    assert other.splitlines() == [x for x in system.splitlines() if not x.startswith(("- synonym", "- broader"))]
    verify = json.loads(Prompter(task).verify("oat milk", [{"role": "synonym", "text": "oat drink"}]).content)
    assert "- synonym: another name (other words for the query: right if" in verify["messages"][0]["content"]
    assert "(other words" not in Prompter(plain).verify("oat milk", []).content.decode()

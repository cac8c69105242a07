from __future__ import annotations

import json
from typing import Any

import pytest

from llm_client.context import EMPTY
from llm_client.likely_tokens import Estimate, likely_tokens
from llm_client.prompt import Prompter
from task.spec import Task
from tests.conftest import make_task
from tests.teacher.test_label import PROMPT

KNOWN = [
    [{"role": "product", "text": "milk"}], [], [{"role": "brand", "text": "oat"}, {"role": "product", "text": "x"}],
]


def task_of(**openai: Any) -> Task:
    return make_task(teacher={"backend": "openai", "openai": {"prompt": str(PROMPT), "model": "m", **openai}})


def estimate_of(task: Task, **more: Any) -> Estimate:
    return Estimate(task, Prompter(task), KNOWN, **more)


@pytest.mark.parametrize(("text", "tokens"), [
    ("", 0), ("oat milk", 2), ("unbelievable", 2), ("500 g", 2), ("at 12500", 4), ('{"role": "x"}', 6), ("a\n\nb", 3),
])
def test_pieces_of_a_text(text: str, tokens: int) -> None:
    assert likely_tokens(text) == tokens


def test_an_answer_is_as_long_as_known_ones_and_counts_for_each_sample() -> None:
    task = task_of(samples=3)
    label, samples = (estimate_of(task).request(r) for r in Prompter(task).first("oat milk", EMPTY))
    mean = sum(likely_tokens(json.dumps({"labels": rows})) for rows in KNOWN) / 3
    assert label.completion == pytest.approx(mean)
    assert samples.completion == pytest.approx(3 * mean)
    assert samples.prompt == label.prompt
    messages = [m["content"] for m in json.loads(Prompter(task).first("oat milk", EMPTY)[0].content)["messages"]]
    assert label.prompt == sum(map(likely_tokens, messages)) + 4 * len(messages) + 3


def test_a_verification_is_expected_where_a_query_has_labels() -> None:
    task = task_of(verify=True)
    estimate, prompter = estimate_of(task), Prompter(task)
    expected = [estimate.request(prompter.verify("oat milk", rows)) for rows in KNOWN if rows]
    found = estimate.verify("oat milk")
    assert found.calls == pytest.approx(2 / 3)
    assert found.prompt == pytest.approx(sum(x.prompt for x in expected) / 3)
    assert found.completion == pytest.approx(sum(x.completion for x in expected) / 3)


def test_measured_answers_replace_those_of_the_labels() -> None:
    task = task_of(samples=3)
    requests = Prompter(task).first("oat milk", EMPTY)
    estimate = estimate_of(task, measured={"label": 800.0, "samples": 2_400.0})  # of a model that thinks
    assert [estimate.request(r).completion for r in requests] == [800.0, 2_400.0]


def test_without_known_labels_a_few_are_assumed() -> None:
    task = task_of()
    (request,) = Prompter(task).first("oat milk", EMPTY)
    assert 20 < Estimate(task, Prompter(task)).request(request).completion < 80


def test_as_many_rewrites_as_a_query_may_have_are_assumed_where_none_are_known() -> None:
    def expected(most: int) -> float:
        task = make_task(
            roles=[{"name": "product"}, {"name": "synonym", "kind": "text", "most": most}],
            teacher=task_of().teacher.model_dump(), student={"form": "write"},
        )
        (request,) = Prompter(task).first("oat milk", EMPTY)
        return Estimate(task, Prompter(task)).request(request).completion

    one = likely_tokens('{"role": "synonym", "text": "two words"}')
    assert 3 * one < expected(5) - expected(1) < 5 * one + 10

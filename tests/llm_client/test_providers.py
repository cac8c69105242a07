"""What servers do, and what a labelling job makes of it: the rows of docs/providers.md, each against such a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from task.errors import InputError
from task.labels import Example
from teacher.ledger.ledger import Ledger
from tests.conftest import make_task
from tests.llm_client import strict_schema
from tests.llm_client.fake_api import FakeApi
from tests.teacher.test_label import llm_task, run

RIGHT = {"labels": [{"role": "product", "text": "milk"}]}
LOG = [Example("oat milk")]
Shape = Callable[[dict[str, Any]], Any]
REPAIR = "The text that follows"


def labelled(api: FakeApi, folder: Path, *, batch: bool = False, **openai: Any) -> tuple[str, str, list[str]]:
    """Status, reason and values of the one query, after a job."""
    task = llm_task(api.url, max_attempts=2, batch_poll_s=0.01, **openai)
    if batch:
        task = task.model_copy(update={"teacher": task.teacher.model_copy(update={"backend": "openai-batch"})})
    (row,) = run(task, LOG, folder).rows
    return row.status, row.reason, [x.text for x in row.labels]


def outcomes(folder: Path) -> list[tuple[str, str, str]]:
    """Purpose, outcome and error of each attempt."""
    with Ledger(folder / "ledger.sqlite") as ledger:
        return [(a["purpose"], a["outcome"], a["error"] or "") for a in ledger.attempts()]


def message(**fields: Any) -> Shape:
    """Replaces the first choice's message."""
    return lambda completion: completion["choices"][0].update(message={"role": "assistant", **fields}) or completion


def ending(reason: Any, **more: Any) -> Shape:
    """Replaces the first choice's `finish_reason`."""
    def change(completion: dict[str, Any]) -> Any:
        completion["choices"][0].update(finish_reason=reason, **more)
        return completion
    return change


def first_try_only(shape: Shape) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    """A shape of the first completion; later ones are as they should be."""
    done: list[int] = []

    def change(body: dict[str, Any], completion: dict[str, Any]) -> Any:
        if done:
            return completion
        done.append(1)
        return shape(completion)
    return change


# -- requests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("settings", [{}, {"verify": True, "samples": 2, "compare_bare": True}])
def test_a_server_in_strict_mode_accepts_every_request(tmp_path: Path, settings: dict[str, Any], batch: bool) -> None:
    with FakeApi() as api:
        api.refusal = strict_schema.refusal
        assert labelled(api, tmp_path, batch=batch, **settings) == ("accepted", "", ["milk"])


def test_the_repair_and_the_review_are_accepted_too(tmp_path: Path) -> None:
    with FakeApi(lambda query, nth: "not-json") as api:
        api.refusal = strict_schema.refusal
        assert labelled(api, tmp_path)[0] == "accepted"
        assert api.calls["repair"] == 1


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("extra", [
    {"max_completion_tokens": 200, "temperature": None},
    {"max_completion_tokens": 200, "max_tokens": None, "temperature": None, "reasoning_effort": "low"},
    {"max_tokens": None, "temperature": None},
])
def test_a_reasoning_model_is_sent_neither_max_tokens_nor_a_temperature(
    tmp_path: Path, extra: dict[str, Any], batch: bool
) -> None:
    def refusal(body: dict[str, Any]) -> str | None:
        """As GPT-5 does: a null is refused as well."""
        unknown = [name for name in ("max_tokens", "temperature") if name in body]
        return f"Unsupported parameter: {unknown}" if unknown else None

    with FakeApi() as api:
        api.refusal = refusal
        assert labelled(api, tmp_path, batch=batch, extra_body=extra, verify=True) == ("accepted", "", ["milk"])
        assert {b.get("max_completion_tokens") for b in api.bodies} <= {extra.get("max_completion_tokens")}


def test_a_server_that_knows_no_response_format_is_sent_none(tmp_path: Path) -> None:
    with FakeApi() as api:
        api.refusal = lambda body: "unknown field" if "response_format" in body else None
        assert labelled(api, tmp_path, structured_output=False) == ("accepted", "", ["milk"])


@pytest.mark.parametrize(("count", "letters", "refused"), [(1_001, 5, False), (800, 20, True)])
def test_values_that_a_server_does_not_take_in_a_schema(
    count: int, letters: int, refused: bool, tmp_path: Path, embedder_folder: Path
) -> None:
    """More than 1,000 values are not in the schema; fewer may be too long together, and need none at all."""
    values = [f"shade {i}".ljust(letters, "-") for i in range(count)]
    many = [{"name": "shade", "kind": "closed", "values": values}]
    with FakeApi() as api:
        api.refusal = strict_schema.refusal
        api.shape = lambda _, completion: message(content=json.dumps(
            {"labels": [{"role": "shade", "text": values[7].capitalize()}, {"role": "shade", "text": "mauve"}]}
        ))(completion)
        for structured, found in ((True, [] if refused else [values[7]]), (False, [values[7]])):
            teacher = llm_task(api.url, max_attempts=1, structured_output=structured).teacher.model_dump()
            teacher["retrieval"]["embedder"] = str(embedder_folder)  # candidates are found by embedding
            (row,) = run(make_task(roles=many, teacher=teacher), LOG, tmp_path).rows
            assert [x.text for x in row.labels] == found
    assert ("the values of one enum are too long" in outcomes(tmp_path)[0][2]) is refused


def test_an_error_after_a_redirect_names_the_address(tmp_path: Path) -> None:
    with FakeApi(lambda query, nth: "moved") as api:
        assert labelled(api, tmp_path)[0] == "failed"
    ((_, _, error),) = outcomes(tmp_path)
    assert error.startswith(f"HTTP 404 after a redirect to {api.url}/elsewhere")


def test_a_budget_counts_the_limit_that_is_sent_and_needs_one(tmp_path: Path) -> None:
    with FakeApi() as api:
        with pytest.raises(InputError, match="the budget is spent"):  # 10,000 tokens at 2.0 a million
            labelled(api, tmp_path, extra_body={"max_completion_tokens": 10_000}, budget=0.019)
        with pytest.raises(InputError, match=r"a budget needs a limit for the tokens of an answer"):
            labelled(api, tmp_path, extra_body={"max_tokens": None}, budget=1.0)
        assert not api.bodies


@pytest.mark.parametrize(("extra", "problem"), [
    ({"max_tokens": "many"}, "expected a whole number from 1"), ({"max_completion_tokens": 0}, "expected a whole"),
    ({"n": True}, "expected a whole number"), ({"stream": True}, "replies are read as a whole"),
])
def test_extra_fields_that_cannot_work_are_refused_when_the_task_is_loaded(extra: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        llm_task("http://127.0.0.1:1/v1", extra_body=extra)


# -- where the answer is -----------------------------------------------------------------------------------------------

TEXT = json.dumps(RIGHT)
HALF = len(TEXT) // 2
ELSEWHERE = {
    "parts": {"content": [{"type": "text", "text": TEXT[:HALF]}, {"type": "text", "text": TEXT[HALF:]}]},
    "thinking part": {"content": [
        {"type": "thinking", "thinking": [{"type": "text", "text": '{"labels": []}?'}]}, {"type": "text", "text": TEXT},
    ]},
    "strings": {"content": [TEXT]},
    "object": {"content": RIGHT},
    "reasoning_content": {"content": None, "reasoning_content": TEXT},
    "reasoning": {"content": "", "reasoning": f"```json\n{TEXT}\n```"},
    "tool call": {"content": None, "tool_calls": [{"type": "function", "function": {"name": "a", "arguments": TEXT}}]},
    "tool call, object": {"content": "", "tool_calls": [{"function": {"name": "labels", "arguments": RIGHT}}]},
    "function call": {"content": None, "function_call": {"name": "labels", "arguments": TEXT}},
}


@pytest.mark.parametrize("fields", ELSEWHERE.values(), ids=ELSEWHERE.keys())
@pytest.mark.parametrize("batch", [False, True])
def test_an_answer_is_found_in_other_forms_and_fields(tmp_path: Path, fields: dict[str, Any], batch: bool) -> None:
    with FakeApi() as api:
        api.shape = lambda _, completion: message(**fields)(completion)
        assert labelled(api, tmp_path, batch=batch) == ("accepted", "", ["milk"])
        assert sum(api.calls.values()) == 1


NO_ANSWER = {
    "null": ({"content": None}, "no text in the answer"),
    "empty": ({"content": " \n"}, "no text in the answer"),
    "no parts": ({"content": []}, "no text in the answer"),
    "draft": ({"content": None, "reasoning": f"Perhaps {TEXT}? No."}, 'the message holds {"reasoning": "Perhaps'),
    "two calls": ({"content": None, "tool_calls": [{"function": {"arguments": TEXT}}] * 2}, "the message holds"),
}


@pytest.mark.parametrize(("fields", "error"), NO_ANSWER.values(), ids=NO_ANSWER.keys())
@pytest.mark.parametrize("batch", [False, True])
def test_without_an_answer_the_error_says_what_there_is_and_nothing_is_repaired(
    tmp_path: Path, fields: dict[str, Any], error: str, batch: bool
) -> None:
    with FakeApi() as api:
        api.shape = lambda _, completion: message(**fields)(completion)
        status, reason, labels = labelled(api, tmp_path, batch=batch)
        assert (status, labels) == ("failed", [])
        assert reason.startswith("no usable reply: no text in the answer")
        assert error in reason
        ((purpose, outcome, problem),) = outcomes(tmp_path)
        assert (purpose, outcome) == ("label", "error")
        assert error in problem


# -- what an answer says -----------------------------------------------------------------------------------------------

SEVERAL = {
    "trailing empty list": f"{TEXT}\nRejected candidates: []",
    "trailing list of another kind": f"{TEXT}\nRejected: " + '[{"role": "brand", "text": "oat"}]',
    "trailing empty object": f"{TEXT}\n" + '{"labels": []}',
    "fence and empty list": f"```json\n{TEXT}\n```\n\n```json\n[]\n```",
    "opened in the prompt": '{"labels": []} maybe\n</think>\n' + TEXT,
    "a second thought that never ends": TEXT + '\n<think>or rather {"labels": []}',
    "nested thinking": f'<think>a <think>b</think> {{"labels": []}} </think>{TEXT}',
    "another tag": f'[THINK]{{"labels": []}}[/THINK]{TEXT}',
    "channels": f'<|channel|>analysis<|message|>{{"labels": []}}<|end|><|channel|>final<|message|>{TEXT}',
}


@pytest.mark.parametrize("content", SEVERAL.values(), ids=SEVERAL.keys())
def test_of_several_values_the_answer_is_taken(tmp_path: Path, content: str) -> None:
    with FakeApi() as api:
        api.shape = lambda _, completion: message(content=content)(completion)
        assert labelled(api, tmp_path) == ("accepted", "", ["milk"])
        assert sum(api.calls.values()) == 1


@pytest.mark.parametrize("content", ['<think>draft {"labels": []}', "I found none that fit. Rejected: []"])
def test_a_draft_or_a_list_of_something_is_no_answer_and_is_sent_back(tmp_path: Path, content: str) -> None:
    def shape(body: dict[str, Any], completion: dict[str, Any]) -> Any:
        repairing = body["messages"][0]["content"].startswith(REPAIR)
        return message(content=TEXT if repairing else content)(completion)

    with FakeApi() as api:
        api.shape = shape
        assert labelled(api, tmp_path) == ("accepted", "", ["milk"])
        assert api.calls["repair"] == 1


@pytest.mark.parametrize("given", [["false", "no"], [0], [1], ["true"], [None], [[True]], True, {"milk": True}])
def test_only_true_and_false_are_verdicts(tmp_path: Path, given: Any) -> None:
    def shape(body: dict[str, Any], completion: dict[str, Any]) -> Any:
        verifying = body["messages"][0]["content"].startswith("You check labels")
        return message(content=json.dumps({"right": given}))(completion) if verifying else completion

    with FakeApi() as api:
        api.shape = shape
        assert labelled(api, tmp_path, verify=True) == ("accepted", "", ["milk"])
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert "verified" not in ledger.rows(["oat milk"])["oat milk"].label_signals[0]


# -- how an answer ended -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["stop", None, "", "eos", "tool_calls", "end_turn", "STOP", 0])
def test_an_answer_that_can_be_read_is_complete_whatever_the_server_calls_it(tmp_path: Path, reason: Any) -> None:
    with FakeApi() as api:
        api.shape = lambda _, completion: ending(reason)(completion)
        assert labelled(api, tmp_path) == ("accepted", "", ["milk"])


def test_an_answer_without_a_finish_reason_that_was_cut_is_not_taken(tmp_path: Path) -> None:
    with FakeApi() as api:
        api.shape = first_try_only(
            lambda completion: ending(None, message={"content": TEXT[:-2]})(completion)
        )
        assert labelled(api, tmp_path)[0] == "accepted"
        assert [x[:2] for x in outcomes(tmp_path)] == [("label", "invalid"), ("repair", "ok")]


STOPPED = {
    "length": (ending("length"), "cut by max_tokens"),
    "MAX_TOKENS": (ending("MAX_TOKENS"), "cut by max_tokens"),
    "model_length": (ending("model_length"), "cut by max_tokens"),
    "all tokens on reasoning": (ending("length", message={"content": ""}), "cut by max_tokens"),
    "content_filter": (ending("content_filter"), "withheld: finish_reason 'content_filter'"),
    "content_filter, no content": (ending("content_filter", message={"content": None}), "withheld"),
    "SAFETY": (ending("SAFETY"), "withheld"),
    "refusal": (message(content=None, refusal="I cannot help with that."), "refused: I cannot help with that."),
    "refusal part": (message(content=[{"type": "refusal", "refusal": "No."}]), "the model refused: No."),
}


@pytest.mark.parametrize(("shape", "reason"), STOPPED.values(), ids=STOPPED.keys())
@pytest.mark.parametrize("batch", [False, True])
def test_an_answer_that_was_cut_or_withheld_fails_and_is_not_paid_for_again(
    tmp_path: Path, shape: Shape, reason: str, batch: bool
) -> None:
    with FakeApi() as api:
        api.shape = lambda _, completion: shape(completion)
        for _ in range(2):
            status, why, labels = labelled(api, tmp_path, batch=batch)
            assert (status, labels) == ("failed", [])
            assert reason in why
        assert sum(api.calls.values()) == 1


BROKEN = {
    "abort": ending("abort"), "error": ending("error", error={"code": 502, "message": "no provider"}),
    "network_error": ending("network_error"), "no choices": lambda completion: completion | {"choices": []},
    "choices null": lambda completion: completion | {"choices": None},
    "error in a 200": lambda _: {"error": {"code": 502, "message": "no provider"}},
    "not an object": lambda _: ["?"],
}


@pytest.mark.parametrize("shape", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("batch", [False, True])
def test_an_answer_that_the_server_broke_off_is_asked_for_again(tmp_path: Path, shape: Shape, batch: bool) -> None:
    with FakeApi() as api:
        api.shape = first_try_only(shape)
        assert labelled(api, tmp_path, batch=batch) == ("accepted", "", ["milk"])
        assert sum(api.calls.values()) == 2


def test_an_error_in_a_200_that_is_final_is_not_asked_again(tmp_path: Path) -> None:
    with FakeApi() as api:
        api.shape = lambda _, __: {"error": {"code": 402, "message": "no credits"}}
        assert labelled(api, tmp_path)[0] == "failed"
        assert sum(api.calls.values()) == 1
        assert "no credits" in outcomes(tmp_path)[0][2]


def test_fewer_choices_than_asked_for_are_the_samples(tmp_path: Path) -> None:
    with FakeApi() as api:
        api.shape = lambda _, completion: completion | {"choices": completion["choices"][:1]}
        assert labelled(api, tmp_path, samples=4)[0] == "accepted"
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.rows(["oat milk"])["oat milk"].label_signals[0]["agreement"] == 1.0


def test_samples_count_those_that_are_complete(tmp_path: Path) -> None:
    def shape(_: dict[str, Any], completion: dict[str, Any]) -> Any:
        for choice, reason in zip(completion["choices"][1:], ("content_filter", "length"), strict=False):
            choice.update(finish_reason=reason, message={"content": '{"labels": []}'})
        return completion

    with FakeApi() as api:
        api.shape = shape
        assert labelled(api, tmp_path, samples=4)[0] == "accepted"
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.rows(["oat milk"])["oat milk"].label_signals[0]["agreement"] == 1.0

"""What comes with an answer: log-probabilities and usage, in the forms that servers give them (docs/providers.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from teacher.ledger.ledger import Ledger
from tests.llm_client.fake_api import FakeApi
from tests.llm_client.test_providers import Shape, labelled


def logprobs(change: Callable[[list[dict[str, Any]]], Any]) -> Shape:
    def shape(completion: dict[str, Any]) -> Any:
        choice = completion["choices"][0]
        choice["logprobs"] = change(choice["logprobs"]["content"])
        return completion
    return shape


def each(value: Any) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda tokens: {"content": [t | {"logprob": value} for t in tokens]}


ODD = {
    "null": (each(None), None), "text": (each("-0.1"), None), "positive": (each(0.7), None), "true": (each(True), None),
    "-9999": (each(-9999.0), None), "-1e30": (each(-1e30), None), "-inf": (each(float("-inf")), None),
    "nan": (each(float("nan")), None), "missing": (lambda t: {"content": [{"token": x["token"]} for x in t]}, None),
    "no token": (lambda t: {"content": [{"logprob": -0.01} for x in t]}, None),
    "empty": (lambda t: {"content": []}, None), "null list": (lambda t: {"content": None}, None),
    "null object": (lambda t: None, None), "list of numbers": (lambda t: [-0.1, -0.2], None),
    "list of null": (lambda t: {"content": [None]}, None),
    "uneven": (lambda t: {"tokens": ["a"], "token_logprobs": []}, None),
    "list": (lambda t: t, 0.96), "rounding": (each(1e-7), 1.0),
    "older": (lambda t: {"tokens": [x["token"] for x in t], "token_logprobs": [x["logprob"] for x in t]}, 0.96),
    "thinking before it": (lambda t: {"content": [{"token": '<think>"milk"', "logprob": -3.0}, *t]}, 0.96),
    "null elsewhere": (lambda t: {"content": [t[0] | {"logprob": None}, *t[1:]]}, 0.96),
}


@pytest.mark.parametrize(("change", "expected"), ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("batch", [False, True])
def test_odd_log_probabilities_give_no_signal_and_lose_no_label(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], Any], expected: float | None, batch: bool
) -> None:
    with FakeApi() as api:
        api.shape = lambda _, completion: logprobs(change)(completion)
        assert labelled(api, tmp_path, logprobs=True, batch=batch) == ("accepted", "", ["milk"])
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        found = ledger.rows(["oat milk"])["oat milk"].label_signals[0].get("token probability")
    assert found == (None if expected is None else pytest.approx(expected, abs=0.01))


@pytest.mark.parametrize("usage", [None, [], {}, *({"prompt_tokens": x} for x in ("many", -1, 1e30, True))])
def test_a_server_that_does_not_tell_its_tokens_is_charged_at_the_most(tmp_path: Path, usage: Any) -> None:
    with FakeApi() as api:
        api.shape = lambda _, completion: completion | {"usage": usage}
        assert labelled(api, tmp_path)[0] == "accepted"
        most = len(json.dumps(api.bodies[0]).encode()) / 1e6 + 512 * 2.0 / 1e6
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.spent()["cost"] == pytest.approx(most, rel=0.2)


def test_more_cached_tokens_than_tokens_cost_no_less_than_nothing(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 900}}
    with FakeApi() as api:
        api.shape = lambda _, completion: completion | {"usage": usage}
        assert labelled(api, tmp_path)[0] == "accepted"
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        (attempt,) = ledger.attempts()
    assert (attempt["prompt_tokens"], attempt["cached_tokens"]) == (100, 100)


def test_a_ledger_does_not_mix_probabilities_with_and_without_a_grammar(tmp_path: Path) -> None:
    """vLLM 0.32 renormalises over what the grammar allows, so the two are on different scales: each is asked for."""
    with FakeApi() as api:
        for structured in (True, False):
            labelled(api, tmp_path, logprobs=True, structured_output=structured)
        assert sum(api.calls.values()) == 2

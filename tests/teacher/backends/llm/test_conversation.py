"""The signals that each further request adds to a label, through a real HTTP server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from task.labels import Example
from teacher.ledger.ledger import Ledger
from tests.llm_client.fake_api import FakeApi
from tests.teacher.test_label import llm_task, queries, run


def signals(folder: Path, url: str, **settings: Any) -> tuple[dict[str, float], dict[str, float]]:
    run(llm_task(url, **settings), [Example("oat milk")], folder)
    with Ledger(folder / "ledger.sqlite") as ledger:
        row = ledger.rows(["oat milk"])["oat milk"]
    return dict(row.label_signals[0]), dict(row.row_signals)


@pytest.mark.parametrize(("settings", "expected"), [
    ({}, {"guardrails"}),
    ({"samples": 3}, {"guardrails", "agreement"}),
    ({"compare_bare": True}, {"guardrails", "bare"}),
    ({"verify": True}, {"guardrails", "verified"}),
    ({"logprobs": True}, {"guardrails", "token probability"}),
    ({"samples": 1, "compare_bare": True, "verify": True, "logprobs": True},
     {"guardrails", "agreement", "bare", "verified", "token probability"}),
])
def test_each_question_adds_its_signal_and_each_is_paid_for_once(
    tmp_path: Path, settings: dict[str, Any], expected: set[str]
) -> None:
    with FakeApi() as api:
        found, whole = signals(tmp_path, api.url, **settings)
        calls = sum(api.calls.values())
        assert signals(tmp_path, api.url, **settings)[0] == found
        assert sum(api.calls.values()) == calls
    assert set(found) == expected
    assert found.get("agreement", 1.0) == found.get("bare", 1.0) == found.get("verified", 1.0) == 1.0
    assert found.get("token probability", 0.96) == pytest.approx(0.96, abs=0.01)  # four characters at -0.01
    assert whole["kept"] == 1.0


def test_verdicts_of_another_number_than_the_labels_are_no_signal(tmp_path: Path) -> None:
    """Which label each is of is unknown: taken by position, one that is missing at the front shifts all others."""
    def longer(_: dict[str, Any], completion: dict[str, Any]) -> dict[str, Any]:
        message = completion["choices"][0]["message"]
        if "right" in (found := json.loads(message["content"])):
            message["content"] = json.dumps({"right": [*found["right"], True]})
        return completion

    with FakeApi() as api:
        api.shape = longer
        found, _ = signals(tmp_path, api.url, verify=True)
        assert api.calls["verify"] == 1
    assert set(found) == {"guardrails"}


def test_a_further_signal_asks_for_that_alone(tmp_path: Path) -> None:
    log = queries(6)
    with FakeApi() as api:
        run(llm_task(api.url), log, tmp_path)
        assert sum(api.calls.values()) == 6
        run(llm_task(api.url, verify=True), log, tmp_path)
        assert (sum(api.calls.values()), api.calls["verify"]) == (12, 6)
        run(llm_task(api.url, verify=True, samples=4), log, tmp_path)
        assert sum(api.calls.values()) == 18

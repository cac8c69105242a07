from __future__ import annotations

from pathlib import Path

import pytest

from llm_client.attempt import Attempt
from teacher.ledger.ledger import Ledger
from teacher.ledger.measured_tokens import LEAST, answer_tokens, pass_cost, prompt_tokens
from teacher.ledger.records import LedgerRow


def attempt(query: str, cost: float, **more: object) -> Attempt:
    values = {"request": f"{query} {cost}", "query": query, "backend": "openai", "model": "m", "cost": cost, **more}
    return Attempt(**values)  # type: ignore[arg-type]


def row(query: str, count: int) -> LedgerRow:
    return LedgerRow(query, count, "", "accepted", (), 1.0)


def test_a_pass_is_the_last_answer_of_each_request_of_the_log() -> None:
    with Ledger(Path(":memory:")) as ledger:
        assert pass_cost(ledger, ["label", "verify"]) is None
        ledger.record([
            attempt("oat", 9.0), attempt("rye", 9.0),  # an earlier prompt
            attempt("oat", 5.0, outcome="error"), attempt("oat", 2.0), attempt("oat", 1.0, purpose="verify"),
            attempt("rye", 3.0, outcome="invalid"), attempt("rye", 0.5, purpose="repair"),
            attempt("rye", 7.0, purpose="samples"),  # not asked for now
            attempt("gold", 8.0),
        ], [row("oat", 3), row("rye", 1), row("gold", 0)])
        assert pass_cost(ledger, ["label", "verify"]) == pytest.approx((2.0 + 1.0 + 3.0 + 0.5) / 2)
        assert ledger.spent()["cost"] == pytest.approx(44.5)


def test_means_need_enough_answers_of_the_model() -> None:
    with Ledger(Path(":memory:")) as ledger:
        ledger.record([attempt(f"q{i}", 0.1, completion_tokens=10 + i % 2) for i in range(LEAST)])
        ledger.record([attempt(f"q{i}", 0.1, completion_tokens=9, purpose="verify") for i in range(LEAST - 1)])
        ledger.record([attempt(f"q{i}", 0.1, completion_tokens=900, model="another") for i in range(LEAST)])
        ledger.record([attempt("bad", 0.1, completion_tokens=512, outcome="truncated")])
        assert answer_tokens(ledger, "m") == {"label": 10.5}


def test_the_tokens_of_a_prompt_are_those_of_its_own_request() -> None:
    with Ledger(Path(":memory:")) as ledger:
        ledger.record([
            attempt("a", 0.1, request="1", prompt_tokens=100), attempt("b", 0.1, request="2"),
            attempt("a", 0.1, request="1", prompt_tokens=7, purpose="repair"),
        ])
        assert prompt_tokens(ledger, ["1", "2", "3"]) == {"1": 100}

"""What a job lacks, and the commonest reason in the provider's words."""

from __future__ import annotations

from pathlib import Path

from llm_client.attempt import Attempt
from teacher.ledger.ledger import Ledger
from teacher.ledger.missing_answers import Missing, last_attempt, missing_answers
from teacher.ledger.records import LedgerRow

WRONG_KEY = 'HTTP 401: {"error": {"message": "invalid api key", "code": "x"}}'


def attempt(query: str, outcome: str, error: str | None = None, request: str = "") -> Attempt:
    return Attempt(
        request=request or f"r-{query}", query=query, backend="openai", model="m", outcome=outcome, error=error,  # type: ignore[arg-type]
        reply="{}" if outcome == "ok" else None,
    )


def row(query: str, status: str) -> LedgerRow:
    return LedgerRow(query, 1, f"r-{query}", status, (), 0.0)  # type: ignore[arg-type]


def test_the_commonest_cause_is_named_in_the_providers_words(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.record(
            [attempt("a", "error", WRONG_KEY), attempt("b", "error", WRONG_KEY), attempt("c", "error", "HTTP 500: <p>"),
             attempt("d", "invalid", "the answer cannot be read"), attempt("e", "truncated"), attempt("f", "ok"),
             attempt("f", "error", "HTTP 500: no", "verify-f")],
            [*(row(q, "failed") for q in "abcde"), row("f", "accepted"), row("g", "failed")],
        )
        found = missing_answers(ledger, list("abcdefg"), 0)
    assert found == Missing(
        of=7, unanswered=4, unusable=1, signals=1, cause="HTTP 401: invalid api key, 2 of 7"
    )


def test_errors_that_differ_by_an_id_or_a_time_are_one_cause(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ids = (("1.2s", "3f9a2b7711"), ("9s", "88aa2b77aa"))
        said = [f"HTTP 429: try again in {seconds}, request req-{name}" for seconds, name in ids]
        ledger.record(
            [*(attempt(q, "error", e) for q, e in zip("ab", said, strict=True)), attempt("c", "error", "HTTP 500: x")],
            [row(q, "failed") for q in "abc"],
        )
        found = missing_answers(ledger, list("abc"), 0)
        assert found.cause is not None
        assert found.cause.startswith("HTTP 429: try again in 1.2s")
        assert found.cause.endswith(", 2 of 3")


def test_signals_that_failed_before_the_job_are_not_of_the_job(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.record([attempt("a", "ok"), attempt("a", "error", "x", "verify-a")], [row("a", "accepted")])
        assert missing_answers(ledger, ["a"], last_attempt(ledger)) == Missing(of=1)

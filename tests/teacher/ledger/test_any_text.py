"""Whatever a provider or a log sends, the ledger takes it, and a write that fails leaves the ledger usable."""

from __future__ import annotations

import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_client.attempt import Attempt
from task.labels import Label
from task.text import repaired
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import Batch, LedgerRow

# Every code point, half characters included; those that break lines come up often.
ANY_TEXT = st.lists(st.one_of(
    st.sampled_from([*"\u2028\u2029\x85\x0b\x0c\x1c\r\n\t\0\ufeff\"\\", "\ud83e", "\udd5b", "milk"]),
    st.characters(categories=("L", "N", "P", "S", "Z", "C", "M", "Cs")),
), max_size=8).map("".join)


def ok(key: str, **more: Any) -> Attempt:
    return Attempt(request=key, query="milk", backend="openai", model="m", **{"reply": "[]", **more})


def row(query: str, **more: Any) -> LedgerRow:
    base = {"count": 1, "request": "key", "status": "accepted", "labels": (), "confidence": 1.0}
    return LedgerRow(query, **base | more)


@given(reply=ANY_TEXT, error=ANY_TEXT, token=ANY_TEXT, title=ANY_TEXT)
def test_the_text_of_an_attempt_comes_back_with_half_characters_replaced(
    reply: str, error: str, token: str, title: str
) -> None:
    with Ledger(Path(":memory:")) as ledger:
        details = {"logprobs": [[token, -0.5]]}
        ledger.record([ok("key", reply=reply, error=error, details=details, evidence={"items": [title]})])
        (found,) = ledger.attempts("milk")
        assert (found["reply"], found["error"]) == (repaired(reply), repaired(error))
        assert found["evidence"] is None or json.loads(found["evidence"]) == {"items": [repaired(title)]}
        assert ledger.replies(["key"])["key"].details == {"logprobs": [[repaired(token), -0.5]]}


@given(query=ANY_TEXT, text=ANY_TEXT, reason=ANY_TEXT)
def test_a_row_comes_back_with_half_characters_replaced(query: str, text: str, reason: str) -> None:
    with Ledger(Path(":memory:")) as ledger:
        verdict = {"role": "brand", "text": text, "verdict": "rejected", "reason": reason}
        ledger.write_rows([row(query, labels=(Label("brand", text),), reason=reason, verdicts=[verdict])])
        found = ledger.rows([query])[query]
        assert found.labels == (Label("brand", repaired(text)),)
        assert (found.reason, found.verdicts[0]["text"]) == (repaired(reason), repaired(text))
        assert [r.query for r in ledger.all_rows()] == [repaired(query)]


@given(ANY_TEXT)
def test_a_batch_comes_back_with_half_characters_replaced(query: str) -> None:
    with Ledger(Path(":memory:")) as ledger:
        ledger.note_batch(Batch(token="t", id="b", state="made", requests=(("key", query, "label"),)))
        assert ledger.open_batches()[0].requests == (("key", repaired(query), "label"),)


@pytest.mark.parametrize("numbers", [
    {"prompt_tokens": 10**30, "completion_tokens": 2**63}, {"cached_tokens": -(10**30)},
    {"cost": math.nan}, {"cost": math.inf}, {"latency_s": math.nan},
    {"details": {"logprobs": [["a", -math.inf], ["b", math.nan]]}},
])
def test_numbers_that_sqlite_cannot_hold_do_not_lose_a_paid_reply(numbers: dict[str, Any]) -> None:
    with Ledger(Path(":memory:")) as ledger:
        ledger.record([ok("one", **numbers), ok("two", **numbers)])
        assert ledger.answered(["one", "two"]) == {"one", "two"}
        spent = ledger.spent()
        assert all(math.isfinite(x) for x in spent.values())
        assert ledger.costs("model")[0]["attempts"] == 2


def test_a_write_that_fails_is_rolled_back_whatever_the_exception(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        with pytest.raises(OverflowError):
            ledger.write_rows([row("first"), row("huge", count=10**20)])
        with pytest.raises(sqlite3.ProgrammingError):
            ledger.write_rows([row("first"), row("odd", status=object())])
        assert list(ledger.all_rows()) == []
        ledger.write_rows([row("second")])
        assert [r.query for r in ledger.all_rows()] == ["second"]


def test_traffic_beyond_64_bits_is_added_exactly(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.write_rows([row("a", count=2**63 - 1), row("b", count=2**63 - 1)])
        assert ledger.statuses() == {"accepted": (2, 2**64 - 2)}

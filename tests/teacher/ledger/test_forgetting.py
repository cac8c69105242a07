"""A query that is forgotten is gone from the file, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_client.attempt import Attempt, Reply
from task.errors import InputError
from task.labels import Label
from task.normalize import normalize_v1
from teacher.ledger.forgetting import Removed, forget
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import Batch, LedgerRow
from teacher.ledger.reviews import Review, Reviews, read_verdicts

SECRET = "Zofia Quux  Weg 7"


def same(text: str) -> bool:
    return normalize_v1(text) == normalize_v1(SECRET)


def attempt(query: str, **more: Any) -> Attempt:
    return Attempt(request=f"r {query.upper()}", query=query, backend="openai", model="m", cost=1.0, **more)


def row(query: str) -> LedgerRow:
    return LedgerRow(query, 1, f"r {query.upper()}", "accepted", (Label("brand", query),), 0.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with the query in every table; some of it deleted before, which leaves its text in free pages."""
    found = tmp_path / "ledger.sqlite"
    with Ledger(found) as ledger:
        ledger.record([
            attempt(SECRET, reply=f"raw reply about {SECRET}", evidence={"items": [f"only for {SECRET}"]}),
            attempt(SECRET.lower(), error="429", outcome="error"), attempt("oat milk", reply="fine", evidence={
                "neighbours": ["rice milk", SECRET], "examples": [{"query": SECRET, "labels": []}, {"query": "tea"}],
                "similar": {"brand": ["oatly"]},
            }), attempt("rice milk", reply="fine", evidence={"neighbours": ["oat milk"]}),
        ], [row(SECRET), row(SECRET.upper()), row("oat milk")])
        for token, state in (("t1", "collected"), ("t2", "made")):
            ledger.note_batch(Batch(token=token, id=token, state=state, requests=(
                ("k1", SECRET, "label"), ("k2", "oat milk", "label"),
            )))
    with Reviews(found) as reviews:
        for n, query in enumerate((SECRET, "oat milk")):
            reviews.add(Review(
                token=str(n), query=query, count=1, queue="search", person="ada", decision="accept", labels=(),
                before=(Label("brand", query),), created=1.0,
            ))
    return found


def content(path: Path) -> bytes:
    return b"".join(p.read_bytes() for p in path.parent.glob(f"{path.name}*")).lower()


def test_row_attempts_replies_and_mentions_are_gone_and_others_stay(path: Path) -> None:
    with Ledger(path) as ledger:  # a batch that is still open keeps its requests until it is collected
        ledger.note_batch(Batch(token="t2", id="t2", state="collected", requests=(("k1", SECRET, "label"),)))
    assert forget(path, same, dry_run=False) == Removed(rows=2, attempts=2, contexts=1, batches=0, decisions=1)
    for trace in (b"zofia", b"quux", b"weg 7"):
        assert trace not in content(path)
    assert read_verdicts(path).keys() == {"oat milk"}
    with Ledger(path) as ledger:
        assert [r.query for r in ledger.all_rows()] == ["oat milk"]
        assert {a["query"]: a["evidence"] for a in ledger.attempts()}.keys() == {"oat milk", "rice milk"}
        assert ledger.evidence(["oat milk", "rice milk"]) == {
            "oat milk": {"neighbours": ["rice milk"], "examples": [{"query": "tea"}], "similar": {"brand": ["oatly"]}},
            "rice milk": {"neighbours": ["oat milk"]},
        }
        assert ledger.replies(["r OAT MILK"]) == {"r OAT MILK": Reply("fine", {}, False)}
        requests = dict(ledger.select("SELECT token, requests FROM batches"))
        assert requests == {"t1": '[["k2", "oat milk", "label"]]', "t2": "[]"}
    assert forget(path, same, dry_run=False) == Removed(rows=0, attempts=0, contexts=0, batches=0, decisions=0)


def test_an_open_batch_keeps_its_requests_and_is_told(path: Path) -> None:
    assert forget(path, same, dry_run=False).batches == 1
    with Ledger(path) as ledger:
        (batch,) = ledger.open_batches()
        assert [q for _, q, _ in batch.requests] == [SECRET, "oat milk"]


def test_a_dry_run_counts_the_same_and_changes_nothing(path: Path) -> None:
    with Ledger(path) as ledger:
        before = list(ledger.attempts()), list(ledger.all_rows()), ledger.select("SELECT * FROM batches")
    counted = forget(path, same, dry_run=True)
    with Ledger(path) as ledger:
        assert (list(ledger.attempts()), list(ledger.all_rows()), ledger.select("SELECT * FROM batches")) == before
    assert counted == forget(path, same, dry_run=False)


def test_a_ledger_that_a_job_is_writing_is_left_alone(path: Path) -> None:
    with Ledger(path) as ledger, ledger.writing(), pytest.raises(InputError, match="another labelling job"):
        forget(path, same, dry_run=False)

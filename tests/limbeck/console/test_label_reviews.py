"""Whether a person has decided about a row shows at once, and after each update."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from limbeck.artefacts import RunFolder
from limbeck.console import label_index
from limbeck.console.label_filter import LabelFilter
from limbeck.console.label_index import LabelIndex
from teacher.ledger.records import LedgerRow
from tests.limbeck.console.ledgers import write

_TABLE = """
CREATE TABLE reviews (id INTEGER PRIMARY KEY, token TEXT UNIQUE, query TEXT, queue TEXT, person TEXT, decision TEXT,
                      labels TEXT, before TEXT, created REAL, undone REAL)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "ledger.sqlite", [LedgerRow(q, 1, "key", "accepted", (), 0.5) for q in ("a", "b", "c", "d")])
    return tmp_path


def decide(folder: Path, *rows: tuple[str, str]) -> None:
    """Query and decision of each."""
    with sqlite3.connect(folder / "ledger.sqlite") as db:
        db.executescript(_TABLE.replace("TABLE", "TABLE IF NOT EXISTS"))
        db.executemany("INSERT INTO reviews (query, decision) VALUES (?, ?)", rows)
    db.close()


def decided(index: LabelIndex) -> set[str]:
    yes, no = index.page(LabelFilter(reviewed=True)), index.page(LabelFilter(reviewed=False))
    assert all(r.reviewed for r in yes.rows)
    assert not any(r.reviewed for r in no.rows)
    assert yes.total + no.total == 4
    assert index.count(LabelFilter(reviewed=True)) == len(yes.rows)
    return {r.query for r in yes.rows}


def test_decisions_are_read_when_the_index_is_opened_and_updated(folder: Path) -> None:
    index = LabelIndex(RunFolder(folder))
    index.update()
    assert decided(index) == set()
    decide(folder, ("a", "accept"), ("b", "skip"), ("c", "correct"), ("nowhere", "reject"))
    assert decided(index) == set()
    index.update()
    assert decided(index) == {"a", "c"} == decided(LabelIndex(RunFolder(folder)))
    with sqlite3.connect(folder / "ledger.sqlite") as db:
        db.execute("UPDATE reviews SET undone = 1 WHERE query = 'c'")
    db.close()
    index.update()
    assert decided(index) == {"a"}


def test_a_decision_shows_before_the_next_update(folder: Path) -> None:
    decide(folder, ("b", "accept"))
    index = LabelIndex(RunFolder(folder))
    index.update()
    index.reviewed("a", now=True)
    assert decided(index) == {"a", "b"}
    index.reviewed("b", now=False)
    assert decided(index) == {"a"}


def test_a_decision_during_an_update_is_not_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes after the table was read."""
    index = LabelIndex(RunFolder(folder))
    whole = label_index.decided

    def read(ledger: sqlite3.Connection) -> object:
        found = whole(ledger)
        index.reviewed("d", now=True)
        return found

    monkeypatch.setattr(label_index, "decided", read)
    index.update()
    assert decided(index) == {"d"}

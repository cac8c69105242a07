"""The columns of the file: per-label and per-row signals share one, as in ledgers of earlier versions."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from task.labels import Label
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import LedgerRow

LABELS = (Label("brand", "oat", 0, 3, 0.5),)


@pytest.mark.parametrize(("label_signals", "row_signals", "column"), [
    ([{"guardrails": 1.0}], {"kept": 0.5}, [{"guardrails": 1.0}, {"kept": 0.5}]),
    ([{"guardrails": 1.0}], {}, [{"guardrails": 1.0}, {}]),
    ([], {"kept": 1.0}, [{"kept": 1.0}]),
    ([], {}, []),
])
def test_the_signals_of_labels_and_row_share_a_column(
    tmp_path: Path, label_signals: list[dict[str, float]], row_signals: dict[str, float], column: list[object]
) -> None:
    path = tmp_path / "ledger.sqlite"
    row = LedgerRow(
        "oat", 2, "key", "accepted", LABELS, 0.75, label_signals=label_signals, row_signals=row_signals
    )
    with Ledger(path) as ledger:
        ledger.write_rows([row])
        found = ledger.rows(["oat"])["oat"]
    assert (found.label_signals, found.row_signals) == (label_signals, row_signals)
    with sqlite3.connect(path) as db:
        assert json.loads(db.execute("SELECT signals FROM rows").fetchone()[0]) == column

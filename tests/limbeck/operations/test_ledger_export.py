"""An exported table that went through a spreadsheet comes back with the same labels, and no row changes its status."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.operations.ledger_view import export
from task.errors import InputError, InputWarning
from task.labels import Example, Label
from task.readers import read_labels
from task.text import repaired
from teacher.backends.job import Sources
from teacher.label import label_queries
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import STATUSES, LedgerRow
from tests.conftest import make_task
from tests.teacher.ledger.test_any_text import ANY_TEXT

STARTS = st.sampled_from(["", "=", "+", "-", "@", "'", "'=", "\t", "\r", "\n", '"', ",", ";", "[1]", "{}"])


def saved(path: Path, **cells: str) -> Path:
    """The file as a spreadsheet program saves it: quotes only where they must be, another reason, cells as edited."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows({**row, "status": cells.get(row["query"], row["status"])} for row in rows)
    return path


def test_any_text_comes_back_from_a_spreadsheet(tmp_path: Path) -> None:
    @given(st.lists(st.tuples(STARTS, ANY_TEXT), min_size=1, max_size=4, unique_by=lambda x: repaired(x[0] + x[1])))
    def check(texts: list[tuple[str, str]]) -> None:
        queries = [q for q in (repaired(a + b) for a, b in texts) if q.strip()]
        if not queries:
            return
        rows = [LedgerRow(q, 3, "k", "accepted", (Label("brand", q, 0, len(q)),), 0.5) for q in queries]
        assert export(iter(rows), tmp_path / "rows.csv", overwrite=True) == len(rows)
        with (tmp_path / "rows.csv").open(encoding="utf-8-sig", newline="") as file:
            cells = [c for row in csv.reader(file) for c in row]
        assert not any(c.startswith(("=", "+", "-", "@", "\t", "\r")) for c in cells)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)
            task = make_task(data={"dir": ".", "labels": "x", "max_query_chars": 2_000})
            found = read_labels(saved(tmp_path / "rows.csv"), task)
        assert found == [Example(r.query, r.labels, 3) for r in rows]

    check()


@pytest.fixture
def rows() -> list[LedgerRow]:
    label = (Label("brand", "oat", 0, 3, 0.4),)
    return [
        *(LedgerRow(f"oat {s}", 2, "k", s, () if s in ("failed", "skipped") else label, 0.5, reason=f"why {s}")
          for s in STATUSES),
        LedgerRow("", 1, "", "skipped", (), 0.0, reason="empty query"),
        LedgerRow("x" * 5_000, 1, "", "skipped", (), 0.0, reason="too long"),
    ]


@pytest.mark.filterwarnings("ignore::task.errors.InputWarning")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_no_row_changes_its_status_by_itself(kind: str, rows: list[LedgerRow], tmp_path: Path) -> None:
    path = tmp_path / f"rows.{kind}"
    export(iter(rows), path)
    assert imported(saved(path) if kind == "csv" else path, rows, tmp_path) == {
        "oat accepted": ("accepted", ""), "oat partial": ("partial", "why partial"),
        "oat uncertain": ("uncertain", "why uncertain"),
        "oat failed": ("skipped", "no labels in data.labels"), "oat skipped": ("skipped", "no labels in data.labels"),
        "": ("skipped", "empty query"),
        "x" * 5_000: ("skipped", "5000 characters, more than data.max_query_chars = 256"),
    }


@pytest.mark.filterwarnings("ignore::task.errors.InputWarning")
def test_a_row_that_somebody_accepted_is_accepted(rows: list[LedgerRow], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    export(iter(rows), path)
    found = imported(saved(path, **{"oat uncertain": "accepted", "oat partial": ""}), rows, tmp_path)
    assert found["oat uncertain"] == found["oat partial"] == ("accepted", "")


def imported(path: Path, rows: list[LedgerRow], folder: Path) -> dict[str, tuple[str, str]]:
    task = make_task()
    log = [Example(r.query, count=r.count) for r in rows]
    with Ledger(folder / "ledger.sqlite") as ledger:
        done = label_queries(task, Sources(log, imported=read_labels(path, task)), ledger, folder, fetch=Path)
        return {r.query: (r.status, r.reason) for r in done.rows}


def test_what_is_kept_is_said(rows: list[LedgerRow], tmp_path: Path) -> None:
    export(iter(rows), tmp_path / "rows.csv")
    with pytest.warns(InputWarning, match="2 rows have the status partial or uncertain; as data.labels they keep it"):
        read_labels(tmp_path / "rows.csv", make_task())


def test_a_quote_of_another_table_stays(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text('query,labels\n"\'-5 degrees","[]"\n')
    with pytest.warns(InputWarning, match="no row has a label"):
        assert read_labels(path, make_task())[0].query == "'-5 degrees"


def test_another_kind_of_file_is_refused_and_nothing_is_written(rows: list[LedgerRow], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"NAME\.parquet or NAME\.csv"):
        export(iter(rows), tmp_path / "rows.xlsx")
    assert not list(tmp_path.iterdir())

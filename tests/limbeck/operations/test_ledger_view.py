"""`limbeck ledger` shows any text as it is: no markup, no control characters for the terminal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given

from limbeck.operations import ledger_view as view
from llm_client.attempt import Attempt
from task.errors import InputError
from task.labels import Label
from task.text import repaired
from teacher.backends.job import LabellingPlan
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import LedgerRow
from tests.teacher.ledger.test_any_text import ANY_TEXT


def row(query: str) -> LedgerRow:
    return LedgerRow(query, 1, "key", "partial", (Label("brand", query),), 0.5, reason=query)


@pytest.mark.parametrize(("query", "shown"), [
    ("oat [/b] milk", "oat [/b] milk"), ("[red]milk[/red]", "[red]milk[/red]"), ("milk :smile:", "milk :smile:"),
    ("red \x1b[31mmilk\x07", "red \\x1b[31mmilk\\x07"), ("a\u2028b\x85c", "a\\u2028b\\x85c"), ("a\nb\tc", "a\\nb\\tc"),
    ("牛奶\u3000🥛 café", "牛奶\u3000🥛 café"),
])
def test_rows_and_plans_show_queries_as_they_are(
    query: str, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    view.print_rows(iter([row(query)]), 10)
    (line,) = (x for x in capsys.readouterr().out.split("\n") if "partial" in x)
    assert line.count(shown) == 3  # query, label and reason
    view.print_plan(LabellingPlan(ask=[query], revalidate=[], unchanged=0, calls=1, reasons={"new": 1}))
    assert f"for example: {shown}\n" in capsys.readouterr().out


@given(ANY_TEXT)
def test_any_text_is_printed_and_exported(text: str) -> None:
    with Ledger(Path(":memory:")) as ledger:
        attempt = Attempt(request="key", query=text, backend="openai", model=text, reply=text, evidence={"a": text})
        ledger.record([attempt], [row(text)])
        view.print_overview(ledger)
        view.print_rows(ledger.all_rows(), 10)
        view.print_query(ledger, text)


def test_a_partial_row_names_the_labels_that_were_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    verdicts = [
        {"role": "brand", "text": "Oatli", "verdict": "rejected", "reason": "catalogue: not a value"},
        {"role": "size", "text": "1l", "verdict": "repaired", "reason": "span: moved"},
        {"role": "sort", "text": "oat", "verdict": "rejected", "reason": "schema: unknown role"},
    ]
    why = "rejected brand: Oatli (catalogue: not a value); sort: oat (schema: unknown role)"
    partial = replace(row("milk"), reason="catalogue: not a value", verdicts=verdicts)
    doubtful = replace(partial, query="rye", status="uncertain", reason="confidence: brand is below the threshold")
    with Ledger(Path(":memory:")) as ledger:
        ledger.write_rows([partial, doubtful])
        view.print_rows(ledger.all_rows(), 10)
        view.export(ledger.all_rows(), tmp_path / "rows.csv")
        view.export(ledger.all_rows(), tmp_path / "rows.parquet")
        assert ledger.rows(["milk"])["milk"].reason == "catalogue: not a value"
    assert why in capsys.readouterr().out
    assert why in (tmp_path / "rows.csv").read_text(encoding="utf-8-sig")
    assert [r["reason"] for r in pq.read_table(tmp_path / "rows.parquet").to_pylist()] == [why, doubtful.reason]


def test_any_text_survives_the_export(tmp_path: Path) -> None:
    @given(ANY_TEXT)
    def check(text: str) -> None:
        with Ledger(Path(":memory:")) as ledger:
            ledger.write_rows([row(text)])
            assert view.export(ledger.all_rows(), tmp_path / "rows.parquet", overwrite=True) == 1
        (found,) = pq.read_table(tmp_path / "rows.parquet").to_pylist()
        assert (found["query"], found["labels"][0]["text"]) == (repaired(text), repaired(text))

    check()


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_a_file_with_corrections_is_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("corrected by hand")
    with Ledger(Path(":memory:")) as ledger:
        ledger.write_rows([row("milk")])
        with pytest.raises(InputError, match=r"may hold corrections\. Give another name, or add --overwrite"):
            view.export(ledger.all_rows(), tmp_path / name)
        assert (tmp_path / name).read_text() == "corrected by hand"
        assert view.export(ledger.all_rows(), tmp_path / name, overwrite=True) == 1
    assert (tmp_path / name).stat().st_size > 20


def test_an_argument_that_is_not_unicode_is_an_unknown_query(capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger(Path(":memory:")) as ledger:
        ledger.write_rows([row("milk")])
        with pytest.raises(InputError, match="does not know this query"):
            view.print_query(ledger, b"milk \xff".decode(errors="surrogateescape"))
        view.print_query(ledger, "milk")
    assert json.loads(capsys.readouterr().out)["query"] == "milk"

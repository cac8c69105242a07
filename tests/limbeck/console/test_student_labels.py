"""Rows are told by whether the student agrees, from whatever predictions there are."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from limbeck.artefacts import RunFolder
from limbeck.console.label_filter import LabelFilter, Student
from limbeck.console.label_index import LabelIndex
from limbeck.console.student_labels import ConsoleFolder
from limbeck.judging.served import SERVED
from task.errors import InputError
from task.files import write_jsonl
from task.labels import Label
from teacher.ledger.records import LedgerRow
from tests.limbeck.console.ledgers import write

OAT = (Label("brand", "Oat", 0, 3), Label("aisle", "dairy"))


def row(query: str, labels: tuple[Label, ...] = OAT, status: Any = "accepted") -> LedgerRow:
    return LedgerRow(query, 1, "key", status, labels, 0.5)


def predicted(query: str, *labels: Label, **more: Any) -> dict[str, Any]:
    return {"query": query, "count": 1, "labels": [x.to_json() for x in labels], **more}


def shown(index: LabelIndex, student: Student) -> set[str]:
    return {r.query for r in index.page(LabelFilter(student=student)).rows}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    write(tmp_path / "ledger.sqlite", [row(f"oat {x}") for x in "abcdef"] + [row("oat failed", (), "failed")])
    return RunFolder(tmp_path)


def test_without_predictions_the_filter_says_how_to_get_them(run: RunFolder) -> None:
    index = LabelIndex(run)
    index.update()
    assert "limbeck predict" in (index.facets().no_predictions or "")
    for ask in (index.page, index.count):
        with pytest.raises(ValueError, match=r"console/predictions\.jsonl"):
            ask(LabelFilter(student="disagrees"))


def test_a_file_of_predictions_is_compared_by_role_and_text(run: RunFolder) -> None:
    index = LabelIndex(run)
    index.update()
    console = ConsoleFolder(run.folder / "console")
    write_jsonl(console.predictions, [
        predicted("oat a", *reversed(OAT)), predicted("oat b", OAT[0]),
        predicted("oat c", Label("brand", "oat"), OAT[1]),
        predicted("oat d", *OAT, status="invalid", fault="rule"), predicted("oat failed"), predicted("not in the log"),
    ])
    index.update()
    assert index.facets().no_predictions is None
    assert shown(index, "agrees") == {"oat a", "oat c"}
    assert shown(index, "disagrees") == {"oat b", "oat d"}
    write(run.ledger, [row("oat b", (OAT[0],)), row("oat a", ())])  # labelled again
    index.update()
    assert shown(index, "agrees") == {"oat b", "oat c"}
    assert shown(index, "disagrees") == {"oat a", "oat d"}
    console.predictions.unlink()
    index.update()
    assert index.facets().no_predictions is not None


def test_what_an_evaluation_and_cross_fit_left_counts_where_nothing_better_is_there(run: RunFolder) -> None:
    write_jsonl(run.evaluate.predictions(SERVED), [predicted("oat a", *OAT), predicted("oat b")])
    suspects = run.folder / "cross-fit" / "suspects.jsonl"
    write_jsonl(suspects, [{"query": f"oat {x}", "role": "aisle", "says": "bakery"} for x in "ac"])
    index = LabelIndex(run)
    index.update()
    assert shown(index, "agrees") == {"oat a"}  # the evaluated student does, whatever one of cross-fit said
    assert shown(index, "disagrees") == {"oat b", "oat c"}
    os.utime(suspects, (time.time() - 60, time.time() - 60))
    write(run.ledger, [row("oat c")])  # labelled after the students had doubted it
    index.update()
    assert shown(index, "disagrees") == {"oat b"}


@pytest.mark.parametrize(("line", "problem"), [
    ({"labels": []}, "no text"), ({"query": "oat a"}, "no labels"),
    ({"query": "oat a", "labels": [{"role": "b"}]}, "no labels"),
])
def test_a_file_of_something_else_is_named_with_its_line(run: RunFolder, line: dict[str, Any], problem: str) -> None:
    path = ConsoleFolder(run.folder / "console").predictions
    write_jsonl(path, [predicted("oat b"), line])
    index = LabelIndex(run)
    with pytest.raises(InputError, match=problem) as error:
        index.update()
    assert (error.value.file, error.value.line) == (path, 2)
    path.unlink()
    index.update()
    assert index.count(LabelFilter()) == 7

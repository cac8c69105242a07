"""The `labels` backend says which queries it has no labels for; a job without any label is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from task.errors import InputError, InputWarning
from task.labels import Example, Label
from teacher.backends.job import Sources
from teacher.label import label_queries, plan_labelling
from teacher.ledger.ledger import Ledger
from tests.conftest import make_task

OAT = Example("oat milk", (Label("brand", "oat", 0, 3),))


def label(log: list[Example], imported: list[Example], folder: Path) -> list[tuple[str, str, str]]:
    with Ledger(folder / "ledger.sqlite") as ledger:
        done = label_queries(make_task(), Sources(log, imported=imported), ledger, folder, fetch=Path)
        return [(r.query, r.status, r.reason) for r in done.rows]


def test_a_query_without_labels_is_skipped_and_told(tmp_path: Path) -> None:
    log = [Example("rye"), Example("oat milk")]
    with pytest.warns(InputWarning, match=r"1 of 2 queries of data.queries have no labels in data.labels.*\['rye'\]"):
        rows = label(log, [OAT], tmp_path)
    assert rows == [("rye", "skipped", "no labels in data.labels"), ("oat milk", "accepted", "")]
    with Ledger(tmp_path / "ledger.sqlite") as ledger, pytest.warns(InputWarning, match="they are skipped"):
        assert plan_labelling(make_task(), Sources(log, imported=[OAT]), ledger, tmp_path, Path).unchanged == 1
    rye = Example("rye", (Label("product", "rye", 0, 3),))
    assert [s for _, s, _ in label(log, [OAT, rye], tmp_path)] == ["accepted", "accepted"]


def test_a_log_that_meets_no_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 of 1 queries .* \['Oat Milk'\]; expected queries .* \['oat milk'\]"):
        label([Example("Oat Milk")], [OAT], tmp_path)


def test_labels_that_are_all_empty_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labels\.jsonl: labels: no row has a label"):
        label([Example("oat milk")], [Example("oat milk")], tmp_path)

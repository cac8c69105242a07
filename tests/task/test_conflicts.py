"""A query with two labellings: told in every case, and settled as the task file says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from task.conflicts import Conflicts, settle
from task.errors import InputError, InputWarning
from task.labels import Example, Label
from task.spec import Data
from tests.conftest import make_task

BRAND = Example("oat milk", (Label("brand", "oat", 0, 3),), count=2)
PRODUCT = Example("oat milk", (Label("product", "milk", 4, 8), Label("brand", "oat", 0, 3)), count=5)
RYE = Example("rye", (Label("product", "rye", 0, 3),))
# The same labelling in another order and with a confidence is no other labelling.
SAME = replace(PRODUCT, labels=(replace(PRODUCT.labels[1], confidence=0.5), PRODUCT.labels[0]))
ROWS = [BRAND, RYE, PRODUCT, SAME]
LINES = [1, 2, 4, 9]
SAID = r"l\.jsonl: labels: 1 queries have rows with different labels \('oat milk' in lines 1, 4, 9\)"


@pytest.mark.parametrize(("choice", "labels", "done"), [
    ("last", [SAME, RYE, SAME, SAME], "the last row of each is used"),
    ("first", [BRAND, RYE, BRAND, BRAND], "the first row of each is used"),
    ("leave-out", [RYE], "all rows of these queries are left out"),
    (None, ROWS, "all of these rows are used"),
])
def test_each_choice(choice: Conflicts | None, labels: list[Example], done: str) -> None:
    with pytest.warns(InputWarning, match=SAID + f"; {done}"):
        settled = settle(ROWS, LINES, "l.jsonl", choice)
    assert [x.labels for x in settled] == [x.labels for x in labels]
    counts = {1: [1], 4: [2, 1, 5, 5]}  # each row keeps its own
    assert [x.count for x in settled] == counts[len(settled)]


def test_refusing() -> None:
    with pytest.raises(InputError, match=SAID):
        settle(ROWS, LINES, "l.jsonl", "refuse")


@pytest.mark.parametrize("choice", ["last", "first", "leave-out", "refuse", None])
def test_equal_rows_are_no_conflict(choice: Conflicts | None, recwarn: pytest.WarningsRecorder) -> None:
    rows = [PRODUCT, SAME, RYE]
    assert settle(rows, [1, 2, 3], "l.jsonl", choice) == rows
    assert not list(recwarn)


def test_the_default_does_not_change_what_a_stage_depends_on() -> None:
    """Run folders from before there was this key are recognised."""
    data = {"dir": ".", "labels": "labels.jsonl"}
    assert "conflicts" not in make_task(data=data).model_dump(mode="json")["data"]
    dumped = make_task(data=data | {"conflicts": "first"}).model_dump(mode="json")["data"]
    assert Data.model_validate(dumped).conflicts == "first"

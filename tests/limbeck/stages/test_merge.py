"""Which rows adapter and merged model are compared on."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck.stages.merge import parity_rows
from task.codec import Codec
from task.labels import Example, Label
from task.tokenizer import FastTokenizer
from task.training_row import TrainingRow
from teacher.curriculum.rows import Curriculum, write
from tests.conftest import make_task

TRAIN, DEV = (Example(q, (Label("product", q, 0, len(q)),)) for q in ("milk", "tea"))


@pytest.mark.parametrize(("dev", "compared"), [([DEV], [DEV]), ([], [TRAIN])])
def test_training_rows_are_compared_where_there_are_no_dev_rows(
    tmp_path: Path, tokenizer: FastTokenizer, dev: list[Example], compared: list[Example]
) -> None:
    """A curriculum of a few rows has none; the merge ended in a traceback after the training."""
    task = make_task()
    rows = [[TrainingRow(x) for x in part] for part in ([TRAIN], dev)]
    write(Curriculum(*rows, left_out={}), task, tmp_path)
    found = parity_rows(tmp_path, Codec.compile(task, [TRAIN], tokenizer))
    assert [x.query for x in found] == [x.query for x in compared]

"""Which rows adapter and merged model are compared on, and what a changed gate does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from limbeck.artefacts import RunFolder
from limbeck.inputs import Inputs
from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from limbeck.stage import execute
from limbeck.stages.merge import STAGE, parity_rows
from task.codec import Codec
from task.errors import GateError
from task.files import read_json
from task.labels import Example, Label
from task.tokenizer import FastTokenizer
from task.training_row import TrainingRow
from teacher.curriculum.rows import Curriculum, write
from tests.conftest import make_task
from tests.student.merging.test_matrix_check import write_noisy_adapter

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


@pytest.fixture
def run(tmp_path: Path, tokenizer: FastTokenizer, tiny_llama: Path) -> Run:
    """A run with a finished curriculum and a finished training, whose adapter changes every layer."""
    task = make_task(student={"base": str(tiny_llama), "dtype": "float32", "lora": {"rank": 4, "alpha": 8}})
    rows = [TrainingRow(x) for x in (TRAIN, DEV)]
    for name in ("curriculum", "train"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text('{"digest": "of a finished stage"}')
    write(Curriculum(rows, rows, left_out={}), task, tmp_path / "curriculum")
    codec = Codec.compile(task, [TRAIN, DEV], tokenizer)
    (tmp_path / "train" / "codec.json").write_text(json.dumps(codec.to_json()))
    write_noisy_adapter(tiny_llama, task.student, tmp_path / "train" / "adapter")
    return Run(task, RunFolder(tmp_path), Inputs(task, tmp_path / "sample"), ProgressDisplay())


def with_gate(run: Run, delta: float) -> Run:
    return replace(run, task=run.task.model_copy(update={
        "gates": run.task.gates.model_copy(update={"merge_max_logit_delta": delta}),
    }))


def test_another_gate_judges_the_merge_there_is(run: Run) -> None:
    """With none of the weights written again, whether the merge missed its gate or is finished."""
    with pytest.raises(GateError, match="merge_max_logit_delta allows 1e-12"):
        execute(STAGE, with_gate(run, 1e-12))
    attempt = run.files.folder / ".merge.tmp" / "model" / "model.safetensors"
    written = attempt.stat().st_mtime_ns
    first = execute(STAGE, with_gate(run, 0.5))
    weights = first.folder / "model" / "model.safetensors"
    assert weights.stat().st_mtime_ns == written
    with pytest.raises(GateError):
        execute(STAGE, with_gate(run, 1e-12))
    assert first.manifest == read_json(first.folder / "manifest.json")
    again = execute(STAGE, with_gate(run, 0.7))
    assert (again.skipped, again.digest, dict(again.figures)) == (False, first.digest, dict(first.figures))
    assert weights.stat().st_mtime_ns == written
    assert again.manifest["config"]["gates"]["merge_max_logit_delta"] == 0.7

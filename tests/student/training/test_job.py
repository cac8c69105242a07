"""A training job reaches a worker, which runs in another directory, as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from student.training.job import TrainingJob
from task.codec import Codec
from task.labels import Example, Label
from task.tokenizer import FastTokenizer
from task.training_row import TrainingRow
from tests.conftest import make_task


def test_a_job_is_read_as_it_was_written_with_absolute_paths(
    tmp_path: Path, tokenizer: FastTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = make_task(student={"init_adapter": "earlier/adapter"})
    row = TrainingRow(Example("oat milk", (Label("product", "oat milk", 0, 8),)), confidence=0.5)
    codec = Codec.compile(task, [row.example], tokenizer)
    job = TrainingJob(task, Path("base"), codec, [row], [], Path("run"), reshuffle=False)
    job.write(tmp_path / "job.json")
    read = TrainingJob.read(tmp_path / "job.json")
    assert (read.codec, read.train, read.dev, read.reshuffle) == (codec, [row], [], False)
    assert (read.base, read.folder) == (tmp_path / "base", tmp_path / "run")
    assert read.task.student.init_adapter == str(tmp_path / "earlier" / "adapter")

"""A disk that is full in the middle of training, simulated by a limit on the size of files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from student.training import checkpoint
from student.training.train import train
from task.tokenizer import FastTokenizer
from tests.student.training.test_train import job, losses, weights

SCRIPT = """
import resource, signal, sys
from pathlib import Path
from student.training import checkpoint
from student.training.job import TrainingJob
from student.training.train import train

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing fails with an error, as on a full disk
save = checkpoint.save
def limited(folder, step, *rest):
    if step == 8:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))
    return save(folder, step, *rest)
checkpoint.save = limited
train(TrainingJob.read(Path(sys.argv[1])))
"""


@pytest.mark.timeout(300)
def test_a_full_disk_loses_nothing_and_says_what_to_do(
    tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer
) -> None:
    whole = job(tiny_llama, tmp_path / "whole", tokenizer)
    train(whole)
    made = job(tiny_llama, tmp_path / "cut", tokenizer)
    made.write(made.folder / "job.json")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(made.folder / "job.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "step-000008 could not be written" in done.stderr
    assert "training resumes from step-000004" in done.stderr
    kept = sorted(p.name for p in (made.folder / "checkpoints").iterdir())
    assert kept == ["step-000004"]
    assert checkpoint.newest(made.folder / "checkpoints")
    train(made)
    assert losses(made.folder) == losses(whole.folder)
    a, b = weights(whole.folder), weights(made.folder)
    assert all(torch.equal(a[k], b[k]) for k in a)

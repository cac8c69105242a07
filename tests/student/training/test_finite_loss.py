"""A training that has diverged, or begins with weights that are no numbers, ends at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from student.training.train import train
from task.errors import ComponentError
from task.tokenizer import FastTokenizer
from tests.student.training.test_train import job


def test_a_loss_that_is_no_number_ends_the_training(tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer) -> None:
    base = Path(shutil.copytree(tiny_llama, tmp_path / "base"))
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    made = job(base, tmp_path / "t", tokenizer, max_steps=3)
    with pytest.raises(ComponentError, match=r"the loss of step 1 of 3 is nan, .*student\.base"):
        train(made)
    assert not (made.folder / "adapter").exists()

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from student.training.optimizer import make_optimizer, restore, state_tensors
from student.training.train import train
from task.settings import Student
from task.tokenizer import FastTokenizer
from tests.student.training.test_train import job, losses, train_again_from, weights

pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")


@pytest.mark.parametrize("name", ["adamw", "paged_adamw_8bit"])
def test_a_restored_optimiser_goes_on_to_the_bit(name: str) -> None:
    """A matrix large enough for 8-bit moments, a small one that keeps fp32 ones, one that never got a gradient."""
    student = Student(optimizer=name, weight_decay=0.01)
    random = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(s, generator=random)) for s in ((128, 64), (16, 8), (4, 4))]
    optimizer = make_optimizer(parameters, student)
    gradients = [[torch.randn(p.shape, generator=random) for p in parameters[:2]] for _ in range(6)]

    def steps(over: list[torch.nn.Parameter], by: torch.optim.Optimizer, part: list[list[torch.Tensor]]) -> None:
        for given in part:
            for p, g in zip(over, given, strict=False):
                p.grad = g.clone()
            by.step()

    steps(parameters, optimizer, gradients[:3])
    twin = copy.deepcopy(parameters)
    for p in twin:
        p.grad = None
    again = make_optimizer(twin, student)
    restore(again, state_tensors(optimizer))
    steps(parameters, optimizer, gradients[3:])
    steps(twin, again, gradients[3:])
    assert all(torch.equal(a, b) for a, b in zip(parameters, twin, strict=True))


def test_a_run_with_8_bit_moments_that_was_cut_goes_on_exactly(
    tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer
) -> None:
    whole, cut = (
        job(tiny_llama, tmp_path / n, tokenizer, optimizer="paged_adamw_8bit", lora={"rank": 32, "alpha": 32})
        for n in ("whole", "cut")
    )
    train(whole)
    train(cut)
    lines = (cut.folder / "history.jsonl").read_text().splitlines(keepends=True)
    train_again_from(cut, step=4, lines="".join(lines[:6]))
    train(cut)
    assert losses(cut.folder) == losses(whole.folder)
    a, b = weights(whole.folder), weights(cut.folder)
    assert all(torch.equal(a[k], b[k]) for k in a)

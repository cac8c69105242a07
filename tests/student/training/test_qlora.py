"""A base in NF4 on a CPU: evaluations and checkpoints change nothing in the training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from student.inference import predict
from student.merging.merge import nf4_round_trip
from student.model import load_base
from student.training.train import train
from task.settings import Student
from task.tokenizer import FastTokenizer
from tests.student.training.test_train import job, losses, rows


def test_training_goes_on_after_an_evaluation_exactly_as_without_one(
    tiny_llama_untied: Path, tmp_path: Path, tokenizer: FastTokenizer
) -> None:
    """With AVX512-BF16 bitsandbytes (0.50.2) packed the weights anew, and lower layers got no gradient any more."""
    adapters, norms = {}, {}
    for every in (100, 2):
        seen: list[float] = []

        def note(optimizer: torch.optim.Optimizer, *_: object, to: list[float] = seen) -> None:
            to.append(sum(float(p.grad.norm()) for g in optimizer.param_groups for p in g["params"]))

        made = job(
            tiny_llama_untied, tmp_path / str(every), tokenizer, max_steps=8, eval_every=every, quantization="nf4",
            dtype="bfloat16", keep_best=False,
        )
        hook = register_optimizer_step_pre_hook(note)  # type: ignore[arg-type]
        train(made)
        hook.remove()
        norms[every], adapters[every] = seen, load_file(made.folder / "adapter" / "adapter_model.safetensors")
    assert losses(tmp_path / "2") == losses(tmp_path / "100")
    assert norms[2] == norms[100]
    assert all(torch.equal(adapters[2][k], adapters[100][k]) for k in adapters[100])


@pytest.mark.parametrize("saved", [False, True])
def test_the_rounded_weights_are_the_same_after_an_evaluation(
    tiny_llama_untied: Path, tmp_path: Path, tokenizer: FastTokenizer, saved: bool
) -> None:
    """Also in what is saved: packing rounded the block scales to bf16."""
    settings = Student(base=str(tiny_llama_untied), quantization="nf4")
    model = load_base(tiny_llama_untied, torch.bfloat16, settings)
    made = job(tiny_llama_untied, tmp_path, tokenizer)
    predict(model, made.codec, tokenizer, made.task, rows(8))
    if saved:
        model.save_pretrained(tmp_path / "saved")
        kept = load_file(tmp_path / "saved" / "model.safetensors")
        fresh = load_base(tiny_llama_untied, torch.bfloat16, settings).state_dict()
        assert {k for k in kept if not torch.equal(kept[k], fresh[k])} == set()
        return
    plain = load_file(tiny_llama_untied / "model.safetensors")
    for name, layer in model.named_modules():
        if type(layer).__name__ == "Linear4bit":
            computed = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            assert torch.equal(nf4_round_trip(plain[f"{name}.weight"]), computed)

"""Every other method of PEFT that is accepted is merged as PEFT computes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from student.adapters import add_adapter, load_adapter, write_adapter
from student.merging.matrix_check import compare_tensors
from student.merging.merge import merge
from student.model import load_base
from student.peft_options import METHODS
from student.preflight import check
from task.settings import Student

# What a method needs beside the layers to adapt.
OWN: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10}, "C3A": {"block_size": 64}, "IA3": {"feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": ["norm", "input_layernorm"]},
    "TRAINABLE_TOKENS": {"target_modules": ["embed_tokens"], "token_indices": [6, 7, 8]},
    "VBLORA": {"vector_length": 64, "num_vectors": 16},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_merged_method_gives_the_adapters_logits(tiny_llama_untied: Path, tmp_path: Path, method: str) -> None:
    peft = {"peft_type": method, "target_modules": ["q_proj", "down_proj"]} | OWN.get(method, {})
    settings, ids = Student(peft=peft), torch.arange(5, 40)[None]
    check(tiny_llama_untied, settings)
    plain = load_base(tiny_llama_untied, torch.float32).eval()
    with torch.no_grad():
        before = plain(ids).logits
        model = add_adapter(plain, settings).eval()
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn_like(parameter)
        wanted = model(ids).logits
    write_adapter(model, tmp_path / "adapter")
    merge(base=tiny_llama_untied, adapter=tmp_path / "adapter", out=tmp_path / "merged", settings=settings)
    loaded = load_adapter(load_base(tiny_llama_untied, torch.float32), tmp_path / "adapter")
    report = compare_tensors(loaded, base=tiny_llama_untied, merged=tmp_path / "merged", settings=settings)
    assert report["matrix_error"] <= 1.0
    with torch.no_grad():
        found = load_base(tmp_path / "merged", torch.float32)(ids).logits
    effect = (wanted - before).abs().max()
    assert effect > 0
    assert (found - wanted).abs().max() < max(0.05, 0.02 * float(effect))

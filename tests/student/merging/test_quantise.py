"""8-bit weights: close to the original, in linear layers only, everything else unchanged."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import torch
from hypothesis import given
from safetensors.torch import load_file

from student.merging.quantise import quantise, rounded
from student.merging.token_classifier import export_classifier
from task.files import read_json


@given(st.integers(0, 1_000), st.integers(1, 40), st.integers(1, 40), st.floats(1e-6, 1e4))
def test_no_weight_is_off_by_more_than_half_a_step(seed: int, rows: int, columns: int, size: float) -> None:
    torch.manual_seed(seed)
    weight = size * torch.randn(rows, columns)
    weight[0] = 0.0
    integers, scales = rounded(weight)
    assert integers.dtype == torch.int8
    assert ((integers.float() * scales - weight).abs() <= 0.5001 * scales).all()
    assert (integers[0] == 0).all()


def test_linear_layers_are_rounded_and_nothing_else(tiny_llama: Path, tmp_path: Path) -> None:
    export_classifier(tiny_llama, [5, 6, 7], tmp_path / "classifier")
    count = quantise(tmp_path / "classifier", tmp_path / "int8")
    before, after = (load_file(tmp_path / n / "model.safetensors") for n in ("classifier", "int8"))
    changed = [k for k in before if after[k].dtype == torch.int8]
    assert len(changed) == count == 14
    assert all("_proj" in k for k in changed)
    assert all(torch.equal(before[k], after[k]) for k in before if k not in changed)
    config, original = (read_json(tmp_path / n / "config.json") for n in ("int8", "classifier"))
    assert config.pop("quantization_config")["format"] == "int-quantized"
    assert config == original
    assert (tmp_path / "int8" / "tokenizer.json").read_bytes() == (tiny_llama / "tokenizer.json").read_bytes()

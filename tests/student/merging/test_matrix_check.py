"""Every tensor of a merged model is compared with base + adapter; spare copies of the weights are left out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from limbeck.stages.merge import _check_answers, _check_matrices
from serving.release.bundle import build
from student.adapters import add_adapter, load_adapter, write_adapter
from student.merging.matrix_check import compare_tensors
from student.merging.merge import merge
from student.merging.quantise import quantise
from student.merging.token_classifier import export_classifier
from student.model import load_base
from task.codec import Codec
from task.errors import GateError
from task.model_folder import wanted_weights
from task.settings import Student
from task.tokenizer import FastTokenizer
from tests.conftest import make_task
from tests.student.training.test_train import rows

SETTINGS = Student(peft={
    "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": "all-linear", "rank_pattern": {"q_proj": 8},
})


@pytest.fixture
def base(tiny_llama: Path, tmp_path: Path) -> Path:
    """A base with Mistral's second copy of the weights."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "base"))
    save_file({"layers.0.attention.wq.weight": torch.zeros(2, 2)}, folder / "consolidated.safetensors")
    return folder


def write_noisy_adapter(base: Path, settings: Student, folder: Path) -> Path:
    """An adapter that changes every layer that it is on, as a training would."""
    torch.manual_seed(0)
    model = add_adapter(load_base(base, torch.float32), settings)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)
    write_adapter(model, folder)
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return write_noisy_adapter(base, SETTINGS, tmp_path / "adapter")


def judge(report: Mapping[str, Any]) -> None:
    _check_matrices(report)
    _check_answers(report, make_task())


def test_a_wrong_scale_in_one_layer_fails_the_merge(base: Path, adapter: Path, tmp_path: Path) -> None:
    def report() -> dict[str, object]:
        model = load_adapter(load_base(base, torch.float32), adapter)
        found = compare_tensors(model, base=base, merged=merged, settings=SETTINGS)
        return {"max_logit_delta": 0.0, "label_agreement": 1.0, "rows": 24, **found}

    merged = tmp_path / "merged"
    merge(base=base, adapter=adapter, out=merged, settings=SETTINGS)
    right = report()
    assert right["matrix_error"] <= 1.0  # type: ignore[operator]
    judge(right)
    for figure in ("max_logit_delta", "label_agreement", "matrix_error"):
        with pytest.raises(GateError):
            judge(right | {figure: float("nan")})
    with pytest.raises(GateError, match=r"on 24 rows 97\.37% of the labels are the adapter's, .* lower the gate"):
        judge(right | {"label_agreement": 0.973684})
    tensors, plain = (load_file(p / "model.safetensors") for p in (merged, base))
    name = "model.layers.1.self_attn.q_proj.weight"
    twice = plain[name].float() + 2 * (tensors[name].float() - plain[name].float())  # alpha / r instead of alpha / r_m
    save_file(tensors | {name: twice.to(torch.bfloat16)}, merged / "model.safetensors", metadata={"format": "pt"})
    assert report()["worst_tensor"] == name
    with pytest.raises(GateError, match=r"merged ≠ trained: model\.layers\.1\.self_attn\.q_proj\.weight differs"):
        judge(report())
    norm = "model.norm.weight"  # not adapted, so it must be as it was
    save_file(tensors | {norm: tensors[norm] * 1.01}, merged / "model.safetensors", metadata={"format": "pt"})
    assert report()["worst_tensor"] == norm


def test_a_copy_of_the_weights_that_the_index_does_not_name_goes_nowhere(
    base: Path, adapter: Path, tmp_path: Path, tokenizer: FastTokenizer
) -> None:
    merge(base=base, adapter=adapter, out=tmp_path / "merged", settings=SETTINGS)
    codec = Codec.compile(make_task(), rows(), tokenizer)
    export_classifier(base, codec.symbol_ids, tmp_path / "classifier")
    quantise(base, tmp_path / "int8")
    build(tmp_path / "bundle", make_task(), codec, base, [], {})
    for folder in ("merged", "classifier", "int8", "bundle/model"):
        assert [p.name for p in (tmp_path / folder).glob("*.safetensors")] == ["model.safetensors"], folder


def test_only_what_transformers_reads_is_fetched() -> None:
    twice = ["a.safetensors", "b.safetensors", "consolidated.safetensors", "config.json"]
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    assert wanted_weights(twice, index) == ["a.safetensors", "b.safetensors"]
    assert wanted_weights([*twice, "model.safetensors"], None) == ["model.safetensors"]

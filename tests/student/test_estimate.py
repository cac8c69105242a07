"""Estimates of a training run's memory and compute."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from student.adapters import add_adapter
from student.estimate import GIB, KNOWN, Architecture, architecture, openvino_memory, training_memory
from student.kernels.packed_llama import pack
from student.model import load_base
from task import processor
from tests.conftest import make_task

SHAPE = KNOWN["SmolLM2-135M-Instruct"]


def weights(**student: Any) -> float:
    return training_memory(SHAPE, make_task(student=student).student, 100)["weights"] * GIB


@pytest.fixture
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "cpuinfo", lambda *_fields: "flags : avx512bw avx512vl avx512dq")


@pytest.mark.usefixtures("with_bf16")
@pytest.mark.parametrize("student", [
    {"use_gpu": True}, {"gradient_checkpointing": True}, {"lora": {"dora": True}}, {"lora": {"dropout": 0.1}},
    {"peft": {"peft_type": "LOHA"}},
])
def test_weights_lie_there_once_where_peft_computes(student: dict[str, Any]) -> None:
    assert weights(**student) == pytest.approx(2 * SHAPE.parameters)


@pytest.mark.usefixtures("with_bf16")
def test_weights_are_laid_out_twice_more_where_rows_are_packed() -> None:
    assert weights() == pytest.approx(2 * SHAPE.parameters + 4 * SHAPE.body)
    assert weights(dtype="float32") == pytest.approx(4 * SHAPE.parameters)


def test_without_16_bit_products_weights_take_twice_the_memory_and_are_not_laid_out_again(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "cpuinfo", lambda *_fields: "flags : avx2")
    assert weights() == weights(gradient_checkpointing=True) == pytest.approx(4 * SHAPE.parameters)
    assert weights(use_gpu=True) == pytest.approx(2 * SHAPE.parameters)


def test_what_packed_layers_keep_is_what_was_planned(tiny_llama: Path) -> None:
    task = make_task(student={"dtype": "float32", "lora": {"rank": 16}})
    model = add_adapter(load_base(tiny_llama, torch.float32), task.student)
    assert pack(model)
    packed = model.get_base_model().packed
    packed.decoder.norm = torch.nn.Identity()
    everywhere = torch.arange(60)
    kept = packed(torch.randint(0, 2_000, (3, 20)), lengths=torch.full((3,), 20), wanted=everywhere).grad_fn.keep

    def sizes(of: Iterable[Any]) -> int:
        return sum(x.nbytes if isinstance(x, torch.Tensor) else sizes(x) for x in of)

    shape = architecture(str(tiny_llama))
    assert shape is not None
    planned = training_memory(shape, task.student, 60)["activations"] * GIB
    assert 0.8 * planned < sizes(kept) <= planned


def test_a_base_with_other_keys_has_no_estimate_and_no_traceback(tmp_path: Path) -> None:
    """GPT-2 names its shapes `n_embd`, `n_layer` and `n_head`; a multimodal model nests them."""
    for config in ('{"n_embd": 64, "n_layer": 1, "n_head": 2, "vocab_size": 100}', '{"text_config": {}}'):
        (tmp_path / "config.json").write_text(config)
        assert architecture(str(tmp_path)) is None


def test_openvino_has_the_weights_once_for_any_length_and_once_for_each_of_three() -> None:
    """SmolLM2-135M took 2.6 GiB in fp32; a model above 1 GiB is compiled once."""
    found = openvino_memory(SHAPE, "float32", int8=False)
    assert found["again for prompts of 16, 32, 48 tokens"] == pytest.approx(3 * found["weights"])
    assert found["weights"] * GIB == pytest.approx(4 * SHAPE.parameters, rel=0.01)
    assert 2.3 < sum(found.values()) < 2.7
    assert sum(openvino_memory(SHAPE, "bfloat16", int8=True).values()) < sum(found.values()) / 2
    large: Architecture = KNOWN["Meta-Llama-3-8B"]
    assert set(openvino_memory(large, "bfloat16", int8=False)) == {"weights", "their file", "process"}

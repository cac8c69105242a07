"""Fused layers and packed rows against transformers and PEFT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from student.adapters import add_adapter
from student.inference import read_scores
from student.kernels.fused_lora import fuse
from student.kernels.packed_llama import pack
from student.model import TargetLogits, load_base
from task.codec import Codec
from task.labels import Example
from task.spec import Task
from task.tokenizer import FastTokenizer
from tests.conftest import make_task

LENGTHS = (5, 1, 9, 9, 2)


def model_of(base: Path, task: Task, dtype: torch.dtype = torch.float32) -> Any:
    """The base with an adapter that does something."""
    torch.manual_seed(0)
    model = add_adapter(load_base(base, dtype), task.student)
    torch.manual_seed(1)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data = torch.randn_like(p) * 0.1
    return model


def loss_of(model: Any, lengths: Sequence[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits at the second half of every row, and the gradients of a loss on them."""
    torch.manual_seed(2)
    ids = torch.randint(1, 1_500, (len(lengths), max(lengths)))
    rows = torch.tensor([r for r, n in enumerate(lengths) for c in range(n // 2, n)])
    columns = torch.tensor([c for n in lengths for c in range(n // 2, n)])
    out = TargetLogits(model, range(3, 40))(ids, rows=rows, columns=columns)
    out.square().sum().backward()
    return out.detach(), [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]


@pytest.mark.parametrize("lengths", [LENGTHS, (4, 4, 4)], ids=["uneven", "even"])
@pytest.mark.parametrize(("how", "made"), [(fuse, 14), (pack, True)], ids=["fused", "packed"])
@pytest.mark.parametrize("lora", [
    {"rank": 4, "alpha": 8}, {"rank": 3, "alpha": 8, "targets": "attention"}, {"rank": 2, "alpha": 1, "targets": "mlp"},
    {"rank": 4, "alpha": 8, "rslora": True, "targets": ["q_proj", "v_proj", "up_proj"]},
], ids=["all", "attention", "mlp", "some"])
def test_logits_and_gradients_are_those_of_peft(
    tiny_llama: Path, lora: dict[str, Any], how: Callable[[Any], int | bool], made: int | bool, lengths: Sequence[int]
) -> None:
    task = make_task(student={"lora": lora})
    plain, changed = model_of(tiny_llama, task), model_of(tiny_llama, task)
    found = how(changed)
    assert found == made if "targets" not in lora else found
    (wanted, gradients), (out, others) = loss_of(plain, lengths), loss_of(changed, lengths)
    assert torch.allclose(wanted, out, atol=1e-5)
    assert len(gradients) == len(others) > 0
    for a, b in zip(gradients, others, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))


def test_in_16_bits_gradients_are_as_near_to_the_truth_as_those_of_peft(tiny_llama: Path) -> None:
    task = make_task(student={"lora": {"rank": 4, "alpha": 8}})
    _, wanted = loss_of(model_of(tiny_llama, task), LENGTHS)
    missed = []
    for how in (lambda model: model, pack):
        model = model_of(tiny_llama, task, torch.bfloat16)
        assert how(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, found = loss_of(model, LENGTHS)
        missed.append(float(sum((a - b).square().sum() for a, b in zip(wanted, found, strict=True))))
    size = float(sum(a.square().sum() for a in wanted))
    assert 0 < missed[1] < 1.1 * missed[0] < 0.01 * size


def test_a_second_step_sees_what_the_first_has_learned(tiny_llama: Path) -> None:
    task = make_task(student={"lora": {"rank": 4, "alpha": 8}})
    plain, packed = model_of(tiny_llama, task), model_of(tiny_llama, task)
    assert pack(packed)
    for model in (plain, packed):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(model, LENGTHS)
            optimizer.step()
    assert torch.allclose(loss_of(plain, LENGTHS)[0], loss_of(packed, LENGTHS)[0], atol=1e-4)


@pytest.mark.parametrize("lora", [{"rank": 4, "dora": True}, {"rank": 4, "dropout": 0.1}], ids=["dora", "dropout"])
def test_what_is_not_plain_lora_is_left_to_peft(tiny_llama: Path, lora: dict[str, Any]) -> None:
    model = model_of(tiny_llama, make_task(student={"lora": lora}))
    assert not pack(model)
    assert not fuse(model)


def test_a_place_that_is_read_twice_counts_twice(tiny_llama: Path) -> None:
    task = make_task(student={"lora": {"rank": 4, "alpha": 8}})
    ids, rows, columns = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([0, 0, 1, 0]), torch.tensor([2, 1, 1, 2])
    found = []
    for model in (model_of(tiny_llama, task), packed := model_of(tiny_llama, task)):
        assert model is not packed or pack(packed)
        out = TargetLogits(model, range(3, 40))(ids, rows=rows, columns=columns)
        (out.square().sum(1) @ torch.arange(1.0, 5.0)).backward()
        found.append([out.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))


def test_what_stands_in_the_padding_does_not_matter(tiny_llama: Path, tokenizer: FastTokenizer) -> None:
    task = make_task()
    codec = Codec.compile(task, [Example("oat milk")], tokenizer)
    model = model_of(tiny_llama, task)
    assert pack(model)
    queries = ["oat milk", "verdant machine oat milk 1l", "milk"]
    with torch.inference_mode():
        together = read_scores(model, codec, tokenizer, queries)
        for query, scores in zip(queries, together, strict=True):
            alone = read_scores(model, codec, tokenizer, [query])[0]
            assert torch.allclose(torch.tensor(scores), torch.tensor(alone), atol=1e-5)


def test_rows_in_which_nothing_is_read_are_no_error(tiny_llama: Path, tokenizer: FastTokenizer) -> None:
    task = Task.model_validate(make_task().model_dump() | {"roles": [{"name": "product"}]})
    codec = Codec.compile(task, [Example("oat milk")], tokenizer)
    model = model_of(tiny_llama, task)
    assert pack(model)
    with torch.inference_mode():
        assert [len(s) for s in read_scores(model, codec, tokenizer, [" ", " "])] == [0, 0]
        assert [len(s) for s in read_scores(model, codec, tokenizer, [" ", "oat milk"])] == [0, 2]


def test_attention_in_both_directions_is_that_of_transformers(tiny_llama: Path) -> None:
    task = make_task(student={"lora": {"rank": 4, "alpha": 8}})
    plain, packed = model_of(tiny_llama, task), model_of(tiny_llama, task)
    for model in (plain, packed):
        model.get_base_model().get_decoder().config.is_causal = False
    assert pack(packed)
    (wanted, gradients), (out, others) = loss_of(plain, LENGTHS), loss_of(packed, LENGTHS)
    assert torch.allclose(wanted, out, atol=1e-5)
    for a, b in zip(gradients, others, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
    causal = model_of(tiny_llama, task)
    assert not torch.allclose(loss_of(causal, LENGTHS)[0], wanted, atol=1e-2)

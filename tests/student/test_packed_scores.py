"""Scores from a packed forward pass against transformers, and the check that compares them in each run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.quality import label_agreement
from student.adapters import add_adapter, load_adapter, write_adapter
from student.inference import all_scores, predict
from student.kernels.packed_llama import pack, pack_forward
from student.merging.merge import merge
from student.model import TargetLogits, collate, load_base
from student.packed_scores import checked, packed_predict, packed_scores
from task.codec import Codec
from task.errors import ComponentError
from task.labels import Example, Label
from task.tokenizer import FastTokenizer
from tests.conftest import make_task

WORDS = ("oat", "milk", "verdant", "machine", "1l", "fresh", "cheap", "organic")
# More than one packed batch, of one to nine words.
QUERIES = [" ".join(WORDS[(i * k) % 8] for k in range(1, 2 + i % 9)) for i in range(300)]
LORA: dict[str, dict[str, Any]] = {
    "all": {"rank": 4, "alpha": 8}, "attention": {"rank": 3, "alpha": 8, "targets": "attention"},
    "dropout": {"rank": 4, "alpha": 8, "dropout": 0.1},
}


def adapted(base: Path, lora: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> Any:
    """The base with an adapter that does something, loaded as for evaluation."""
    model = add_adapter(load_base(base, dtype), make_task(student={"lora": lora}).student)
    torch.manual_seed(1)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data = torch.randn_like(p) * 0.1
    write_adapter(model, tmp_path / "adapter")
    return load_adapter(load_base(base, dtype), tmp_path / "adapter")


def learned(base: Path, codec: Codec, tokenizer: FastTokenizer, tmp_path: Path) -> tuple[Path, Path]:
    """An adapter that has learned which words are brands and products, and the base merged with it."""
    model = add_adapter(load_base(base, torch.float32), make_task(student={"lora": LORA["all"]}).student)
    assert pack(model)
    logits, optimizer = TargetLogits(model, codec.symbol_ids), torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.01
    )
    rows = [codec.encode(Example(q, labels_of(q)), tokenizer) for q in QUERIES]
    for step in range(60):
        ids, row_of, columns, targets = collate(rows[step * 16 % 288 :][:16])
        wanted = torch.tensor([codec.symbol_ids.index(int(t)) for t in targets])
        torch.nn.functional.cross_entropy(logits(ids, rows=row_of, columns=columns), wanted).backward()
        optimizer.step()
        optimizer.zero_grad()
    write_adapter(model, tmp_path / "adapter")
    merge(base=base, adapter=tmp_path / "adapter", out=tmp_path / "merged")
    return tmp_path / "adapter", tmp_path / "merged"


def labels_of(query: str) -> tuple[Label, ...]:
    """Every "oat" and "milk" is a product."""
    return tuple(Label("product", m[0], m.start(), m.end()) for m in re.finditer("oat|milk", query))


def codec_of(tokenizer: FastTokenizer) -> Codec:
    return Codec.compile(make_task(), [Example("oat milk")], tokenizer)


@pytest.mark.parametrize("lora", [None, *LORA.values()], ids=["merged", *LORA])
def test_in_32_bits_scores_are_those_of_transformers(
    tiny_llama: Path, tokenizer: FastTokenizer, lora: dict[str, Any] | None, tmp_path: Path
) -> None:
    codec = codec_of(tokenizer)
    model = load_base(tiny_llama, torch.float32) if lora is None else adapted(tiny_llama, lora, torch.float32, tmp_path)
    wanted = all_scores(model, codec, tokenizer, QUERIES)
    steps: list[int] = []
    found, check = packed_scores(model, codec, tokenizer, QUERIES, progress=steps.append)
    assert check is not None
    assert check["rows"] == 32
    assert 0 < check["logit_error"] <= check["worst_row"] < 1e-5
    assert check["label_agreement"] == 1
    assert sum(steps) == len(QUERIES)
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(wanted, found, strict=True))


def test_in_16_bits_a_students_labels_are_those_of_transformers(
    tiny_llama: Path, tokenizer: FastTokenizer, tmp_path: Path
) -> None:
    codec, task = codec_of(tokenizer), make_task()
    adapter, merged = learned(tiny_llama, codec, tokenizer, tmp_path)
    examples = [Example(q) for q in QUERIES]
    gold = [Example(q, labels_of(q)) for q in QUERIES]
    for model in (load_adapter(load_base(tiny_llama, torch.bfloat16), adapter), load_base(merged, torch.bfloat16)):
        wanted = predict(model, codec, tokenizer, task, examples)
        found, check = packed_predict(model, codec, tokenizer, task, examples)
        assert check is not None
        assert 0 < check["logit_error"] < 0.05
        assert check["label_agreement"] >= 0.995
        assert label_agreement(wanted, found) >= 0.995
        assert label_agreement(gold, found) > 0.9


def test_packed_scores_that_are_not_the_models_are_refused(
    tiny_llama: Path, tokenizer: FastTokenizer, tmp_path: Path
) -> None:
    """The packed weights are those of before: what the check would see of a wrong kernel."""
    codec = codec_of(tokenizer)
    model = adapted(tiny_llama, LORA["all"], torch.float32, tmp_path)
    assert pack_forward(model)
    found = all_scores(model, codec, tokenizer, QUERIES)
    changed = model.get_base_model().model.layers[1].self_attn.v_proj
    changed.lora_B["default"].weight.data.mul_(1.2)
    with pytest.raises(ComponentError, match="packed forward pass is wrong"):
        checked(model, codec, tokenizer, QUERIES, found)


def test_what_cannot_be_packed_is_left_to_transformers(
    tiny_llama: Path, tokenizer: FastTokenizer, tmp_path: Path
) -> None:
    codec = codec_of(tokenizer)
    model = adapted(tiny_llama, {"rank": 4, "dora": True}, torch.float32, tmp_path)
    wanted = all_scores(model, codec, tokenizer, QUERIES[:8])
    found, check = packed_scores(model, codec, tokenizer, QUERIES[:8])
    assert check is None
    assert all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_queries_without_a_position_need_no_check(tiny_llama: Path, tokenizer: FastTokenizer) -> None:
    task = make_task(roles=[{"name": "product"}])
    codec = Codec.compile(task, [Example("oat milk")], tokenizer)
    model = load_base(tiny_llama, torch.float32)
    found, check = packed_scores(model, codec, tokenizer, [" ", " "])
    assert check is None
    assert [len(s) for s in found] == [0, 0]
    assert packed_scores(model, codec, tokenizer, []) == ([], None)


def test_generated_forms_are_left_to_transformers(tiny_llama: Path, tokenizer: FastTokenizer) -> None:
    task = make_task(student={"form": "write"})
    codec = Codec.compile(task, [Example("oat milk")], tokenizer)
    model = load_base(tiny_llama, torch.float32)
    examples = [Example(q) for q in QUERIES[:4]]
    found, check = packed_predict(model, codec, tokenizer, task, examples)
    assert check is None
    assert found == predict(model, codec, tokenizer, task, examples)

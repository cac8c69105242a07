from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from student.merging.forgetting import QUESTIONS, TEXT, forgetting, perplexity, right
from student.model import load_base
from task.tokenizer import FastTokenizer

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


def test_a_model_that_was_not_changed_has_forgotten_nothing(tiny_llama: Path, tokenizer: FastTokenizer) -> None:
    found = forgetting(base=tiny_llama, merged=tiny_llama, tokenizer=tokenizer)
    assert found["perplexity"]["ratio"] == 1.0
    assert found["perplexity"]["tokens"] == len(tokenizer.encode(TEXT.read_text()))
    assert found["chat"] is None  # this base has no chat template


def test_perplexity_is_that_of_the_models_own_loss(tiny_llama: Path, tokenizer: FastTokenizer) -> None:
    model = load_base(tiny_llama, torch.float32).eval()
    text = "oat milk fresh cheap verdant machine"
    ids = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        loss = float(model(input_ids=ids, labels=ids).loss)
    assert perplexity(model, tokenizer, text) == pytest.approx(math.exp(loss), rel=1e-5)


def test_a_model_of_noise_has_forgotten_and_its_answers_are_shown(
    tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer
) -> None:
    base, other = tmp_path / "base", tmp_path / "other"
    shutil.copytree(tiny_llama, base)
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    shutil.copytree(base, other)
    model = load_base(base, torch.bfloat16)
    torch.manual_seed(0)
    with torch.no_grad():
        model.model.norm.weight.mul_(20.0)  # confident, and wrong
    model.save_pretrained(other)
    found = forgetting(base=base, merged=other, tokenizer=tokenizer)
    assert found["perplexity"]["ratio"] > 2
    assert len(found["chat"]["rows"]) == found["chat"]["of"] == len(QUESTIONS)
    assert all(isinstance(r["base"], str) and isinstance(r["merged"], str) for r in found["chat"]["rows"])


@pytest.mark.parametrize(("answer", "said"), [
    ("The capital is Paris.", True), ("Parisian cafés", False), ("PARIS!", True), ("", False), ("It is Lyon", False),
])
def test_a_question_is_answered_by_its_word(answer: str, said: bool) -> None:
    assert right(answer, ("paris",)) is said

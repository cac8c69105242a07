"""Text that a student writes after the symbols: greedy, and as probable as one forward pass over it says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from student.adapters import load_adapter
from student.inference import predict
from student.model import load_base
from student.training.job import TrainingJob
from student.training.train import train
from task.codec import Codec
from task.labels import Example, Label
from task.spec import Task
from task.tokenizer import FastTokenizer
from task.training_row import TrainingRow
from task.validation import violation
from tests.conftest import make_task
from tests.student.training.test_train import rows

REWRITES = {"milk": ("oat drink", "soy"), "verdant": ("acme",)}


def task_of(**student: object) -> Task:
    return make_task(
        roles=[
            *(r.model_dump() for r in make_task().roles), {"name": "synonym", "kind": "text", "most": 2},
            {"name": "broader", "kind": "text", "most": 1},
        ],
        student={"form": "write", "dtype": "float32", **student},
    )


def rewritten() -> list[Example]:
    """Queries with `milk` have two synonyms, those with `verdant` one broader query; others have none."""
    out = []
    for row in rows():
        words = row.query.split(" ")
        labels = [*row.labels]
        if "milk" in words:
            labels += [Label("synonym", t, confidence=c) for t, c in zip(REWRITES["milk"], (0.9, 0.8), strict=True)]
        if "verdant" in words:
            labels.append(Label("broader", REWRITES["verdant"][0]))
        out.append(replace(row, labels=tuple(labels)))
    return out


def texts(example: Example) -> set[tuple[str, str]]:
    return {(x.role, x.text) for x in example.labels if x.role in {"synonym", "broader"}}


def test_a_student_learns_to_rewrite_and_says_how_probable_each_text_is(
    tiny_llama: Path, tokenizer: FastTokenizer, tmp_path: Path
) -> None:
    task = task_of(
        base=str(tiny_llama), batch_size=8, max_steps=150, epochs=99, warmup_steps=2, eval_every=1000, save_every=1000,
        learning_rate=0.01, lora={"rank": 8, "alpha": 16},
    )
    learned = rewritten()
    codec = Codec.compile(task, learned, tokenizer)
    train(TrainingJob(
        task, tiny_llama, codec, [TrainingRow(x) for x in learned], learned[:8], tmp_path, reshuffle=True
    ))
    model = load_adapter(load_base(tiny_llama, torch.float32), tmp_path / "adapter")
    found = predict(model, codec, tokenizer, task, [replace(x, labels=()) for x in learned])
    right = sum(texts(f) == texts(g) for f, g in zip(found, learned, strict=True))
    assert right / len(learned) > 0.8
    assert all(violation(task, f.query, f.labels) is None for f in found)

    # The first line follows the prompt and the symbols: its probability is that of one forward pass over its tokens.
    answer = next(f for f in found if ("synonym", "oat drink") in texts(f))
    said = next(x for x in answer.labels if x.text == "oat drink")
    encoded = codec.encode(replace(answer, labels=(*(x for x in answer.labels if x.role != "broader"),)), tokenizer)
    line = [codec.texts[0].symbol, *tokenizer.encode("oat drink"), *codec.separator]
    at = codec.symbol_count(answer.query)
    assert encoded.targets[at : at + len(line)] == line
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([encoded.ids])).logits[0].float().log_softmax(-1)
    places = encoded.positions[at : at + len(line)]
    whole = sum(logits[p, t].item() for p, t in zip(places, line, strict=True))
    assert said.confidence == pytest.approx(math.exp(whole), rel=1e-3)


def test_an_untrained_model_answers_nothing_that_the_task_does_not_allow(
    tiny_llama: Path, tokenizer: FastTokenizer
) -> None:
    task = task_of()
    codec = Codec.compile(task, rows(), tokenizer)
    queries = [Example(q) for q in ("oat milk", "tea", "verdant oat milk 1l", "rye")]
    found = predict(load_base(tiny_llama, torch.float32), codec, tokenizer, task, queries)
    assert [f.query for f in found] == [q.query for q in queries]
    assert all(violation(task, f.query, f.labels) is None for f in found)

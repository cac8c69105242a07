"""Text that a student writes after the symbols: greedy, and as probable as one forward pass over it says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from student.adapters import load_adapter
from student.inference import _generate_symbols, predict
from student.model import load_base
from student.training.job import TrainingJob
from student.training.train import train
from task.codec import Codec
from task.labels import Example, Label, Labelling
from task.spec import Task
from task.tokenizer import FastTokenizer
from task.training_row import TrainingRow
from task.validation import violation
from task.written_texts import most_tokens
from tests.conftest import make_task
from tests.student.training.test_train import rows

SYNONYMS = {"oat drink": 0.9, "soy": 0.8}  # with their rank


def task_of(**student: object) -> Task:
    return make_task(
        roles=[
            *(r.model_dump() for r in make_task().roles), {"name": "synonym", "kind": "text", "most": 2},
            {"name": "broader", "kind": "text", "most": 1},
        ],
        student={"form": "write", "dtype": "float32", **student},
    )


def rewritten() -> list[Example]:
    """Queries that all have the same rewrites: the smallest models cannot tell queries apart and spell as well."""
    texts = [Label("synonym", t, confidence=c) for t, c in SYNONYMS.items()]
    return [replace(row, labels=(*row.labels, Label("broader", "acme"), *texts)) for row in rows()]


def texts(example: Example) -> set[tuple[str, str]]:
    return {(x.role, x.text) for x in example.labels if x.role in {"synonym", "broader"}}


def test_a_student_writes_the_texts_that_it_learned_and_says_how_probable_each_is(
    tiny_llama: Path, tokenizer: FastTokenizer, tmp_path: Path
) -> None:
    task = task_of(
        base=str(tiny_llama), batch_size=8, max_steps=200, epochs=99, warmup_steps=2, eval_every=1000, save_every=1000,
        learning_rate=0.005, lora={"rank": 8, "alpha": 16},
    )
    learned = rewritten()
    codec = Codec.compile(task, learned, tokenizer)
    train(TrainingJob(
        task, tiny_llama, codec, [TrainingRow(x) for x in learned], learned[:8], tmp_path, reshuffle=True
    ))
    model = load_adapter(load_base(tiny_llama, torch.float32), tmp_path / "adapter")
    found = predict(model, codec, tokenizer, task, [replace(x, labels=()) for x in learned])
    right = sum(texts(f) == texts(g) for f, g in zip(found, learned, strict=True))
    assert right / len(learned) > 0.8  # beside the symbols, whose number differs within a batch
    assert all(violation(task, f.query, f.labels) is None for f in found)

    for row in found[:12]:
        assert {x.key: pytest.approx(x.confidence, rel=1e-3) for x in row.labels if x.start is None} == {
            x.key: x.confidence for x in one_by_one(model, codec, tokenizer, task, row.query) if x.start is None
        }


def one_by_one(model: Any, codec: Codec, tokenizer: FastTokenizer, task: Task, query: str) -> Labelling:
    """The answer to a query, token by token, without a batch and without a cache."""
    ids = codec.prompt(query, tokenizer).ids
    start, steps = len(ids), codec.symbol_count(query)
    shares: list[float] = []
    with torch.inference_mode():
        while len(shares) < steps + most_tokens(codec.texts) and ids[-1] != codec.eos_id:
            scores = model(input_ids=torch.tensor([ids])).logits[0, -1].float()
            if len(shares) < steps:  # only symbols compete, and of them those win that can stand there
                symbols = torch.tensor(codec.symbol_ids)
                scores = torch.full_like(scores, -math.inf).index_copy(0, symbols, scores[symbols])
                token = max(codec.allowed_symbols(query)[len(shares)], key=lambda t: float(scores[t]))
            else:
                token = int(scores.argmax(-1))
            ids.append(token)
            shares.append(float(scores.log_softmax(-1)[token]))
    made = ids[start:]
    written = codec.written_texts(made[steps:], shares[steps:], tokenizer)
    return codec.decode(query, (made[:steps], shares[:steps], written), task).labels


def test_a_student_of_texts_alone_begins_with_them(tiny_llama: Path, tokenizer: FastTokenizer) -> None:
    task = make_task(roles=[r.model_dump() for r in task_of().text_roles], student={"form": "write"})
    codec = Codec.compile(task, [], tokenizer)
    model = load_base(tiny_llama, torch.float32)
    queries = ["oat milk", "tea", "rye bread"]
    found = predict(model, codec, tokenizer, task, [Example(q) for q in queries])
    assert [f.labels for f in found] == [one_by_one(model, codec, tokenizer, task, q) for q in queries]


def test_an_untrained_model_answers_nothing_that_the_task_does_not_allow(
    tiny_llama: Path, tokenizer: FastTokenizer
) -> None:
    task = task_of()
    codec = Codec.compile(task, rows(), tokenizer)
    queries = [Example(q) for q in ("oat milk", "tea", "verdant oat milk 1l", "rye")]
    found = predict(load_base(tiny_llama, torch.float32), codec, tokenizer, task, queries)
    assert [f.query for f in found] == [q.query for q in queries]
    assert all(violation(task, f.query, f.labels) is None for f in found)


def test_an_untrained_student_writes_only_symbols_that_fit_their_places(
    tiny_llama: Path, tokenizer: FastTokenizer
) -> None:
    task = make_task(student={"form": "write"})
    codec = Codec.compile(task, [], tokenizer)
    base = load_base(tiny_llama, torch.float32)
    queries = ["oat milk", "a longer query about rice milk", "tea"]
    with torch.inference_mode():
        found = [_generate_symbols(base, codec, tokenizer, [q], "cpu")[0] for q in queries]
    faults = [codec.decode(q, (ids[: codec.symbol_count(q)], values), task).fault for q, (ids, values) in zip(
        queries, found, strict=True
    )]
    assert faults == [None] * 3

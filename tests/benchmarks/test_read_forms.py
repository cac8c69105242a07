"""Ways of reading: where a word is read, and what a base becomes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.read_forms import INSTRUCTION, WAYS, Read, changed
from task.codec import Codec
from task.files import read_json
from task.labels import Example
from task.spec import Task
from task.tokenizer import FastTokenizer
from tests.conftest import make_task

QUERY = "verdant machine oat milk 1l"


def read_in(way: str, tokenizer: FastTokenizer) -> Read:
    task = Task.model_validate(make_task().model_dump() | {"roles": [{"name": "product"}]})
    codec = Codec.compile(task, [Example(QUERY)], tokenizer)
    return Read(**{f.name: getattr(codec, f.name) for f in dataclasses.fields(codec)}, way=WAYS[way].prompt)


@pytest.mark.parametrize(("way", "before"), [
    ("once", ""), ("both ways", ""), ("echo", f"{QUERY}\n"), ("first token", f"{QUERY}\n"),
    ("instructed echo", f"{QUERY}\n{INSTRUCTION}\n"),
])
def test_words_are_read_where_the_way_says(way: str, before: str, tokenizer: FastTokenizer) -> None:
    prompt = read_in(way, tokenizer).prompt(QUERY, tokenizer)
    assert tokenizer.decode(prompt.ids) == before + QUERY
    ends = [tokenizer.decode(prompt.ids[: at + (way != "first token")]) for at in prompt.positions]
    words = QUERY.split()
    if way == "first token":  # what stands before it are the words before, whole
        assert [e.rstrip() for e in ends] == [(before + " ".join(words[:i])).rstrip() for i in range(len(words))]
    else:
        assert ends == [before + " ".join(words[: i + 1]) for i in range(len(words))]


def test_a_base_is_changed_as_the_way_wants_it_and_back(tiny_llama: Path, tmp_path: Path) -> None:
    before = read_json(tiny_llama / "config.json")
    with changed(tiny_llama, WAYS["both ways"], tmp_path) as base:
        assert read_json(base / "config.json") == before | {"is_causal": False}
    with changed(tiny_llama, dataclasses.replace(WAYS["10 layers"], layers=1), tmp_path) as base:
        assert read_json(base / "config.json")["num_hidden_layers"] == 1
    with changed(tiny_llama, WAYS["echo"], tmp_path) as base:
        assert base == tiny_llama
    assert read_json(tiny_llama / "config.json") == before
    assert list(tmp_path.iterdir()) == []

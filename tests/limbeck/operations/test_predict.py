"""Labelling a file with a bundle: by its student, or not at all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.interface import EngineError
from limbeck.operations.predict import predict, through_engine
from serving.release.bundle import build
from student.merging.token_classifier import export_classifier
from task.codec import Codec
from task.labels import Example, Label
from task.readers import read_queries
from task.tokenizer import FastTokenizer
from tests.conftest import make_task
from tests.engine.stand_in import engine
from tests.limbeck.test_cli import in_process


def test_a_file_without_queries_is_refused_before_the_bundle_is_opened(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("serchTerm,hits\noat milk,3\n")
    done = in_process("predict", tmp_path / "no-bundle", "--in", tmp_path / "q.csv", "--out", tmp_path / "p.jsonl")
    assert done.returncode == 2
    assert "q.csv:2: query: field is missing; found ['hits', 'serchTerm']; expected a column `query`" in done.stderr
    assert "Rename the column 'serchTerm' to 'query'" in done.stderr


def test_queries_without_text_are_not_asked_and_the_others_are(
    tmp_path: Path, tiny_llama: Path, tokenizer: FastTokenizer
) -> None:
    task = make_task(serving={"max_model_len": 256, "quantization": "none"})
    codec = Codec.compile(task, [], tokenizer)
    export_classifier(tiny_llama, codec.symbol_ids, tmp_path / "model")
    bundle = build(tmp_path / "bundle", task, codec, tmp_path / "model", [], {})
    (tmp_path / "q.csv").write_text("searchTerm,count\nOAT milk,3\n,7\nrye BREAD,1\n")
    with pytest.warns(UserWarning, match=r"1 queries have no text \(lines 3\)"):
        rows = read_queries(tmp_path / "q.csv")

    async def answers() -> tuple[list[Example], list[int]]:
        async with engine(codec, tokenizer) as stand_in:
            return await through_engine(bundle, stand_in.url, rows, False, lambda _: None), stand_in.asked

    found, asked = asyncio.run(answers())
    assert [(x.query, x.count, [y.text for y in x.labels if y.role == "product"]) for x in found] == [
        ("OAT milk", 3, ["OAT"]), ("", 7, []), ("rye BREAD", 1, ["BREAD"]),
    ]
    assert (sum(asked), found[1].labels) == (2, ())


@pytest.mark.slow
def test_an_engine_that_says_something_else_than_its_student_labels_nothing(
    tmp_path: Path, tiny_llama: Path, tokenizer: FastTokenizer
) -> None:
    task = make_task(serving={"max_model_len": 256, "dtype": "float32"})
    codec = Codec.compile(task, [], tokenizer)
    export_classifier(tiny_llama, codec.symbol_ids, tmp_path / "model")
    wrong = [Example(f"oat milk {i}", (Label("product", "oat milk", 0, 8),)) for i in range(5)]
    bundle = build(tmp_path / "bundle", task, codec, tmp_path / "model", [], {}, reference=wrong)
    with pytest.raises(EngineError, match="of the labels that the trained student gave to 5 queries"):
        predict(bundle, [Example("rice milk")], tmp_path / "engine.log", use_cache=True)

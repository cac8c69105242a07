"""Labelling a file with a bundle: by its student, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.interface import EngineError
from limbeck.operations.predict import predict
from serving.release.bundle import build
from student.merging.token_classifier import export_classifier
from task.codec import Codec
from task.labels import Example, Label
from task.tokenizer import FastTokenizer
from tests.conftest import make_task


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

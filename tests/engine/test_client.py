"""The form `read` on a causal LM (`prompt_logprobs`): the same labels as outside of the engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from engine.startup import start_checked_engine
from eval.quality import label_agreement
from limbeck.operations.predict import through_engine
from serving.release.bundle import build
from serving.release.startup_queries import startup_queries
from student.inference import predict
from student.merging.merge import merge
from student.model import load_base
from student.training.train import train
from task.codec import Codec
from task.tokenizer import FastTokenizer
from tests.conftest import make_task
from tests.student.training.test_train import job, rows

SERVING = {"dtype": "float32", "max_model_len": 256, "reader": "prompt_logprobs"}


def test_symbols_must_have_learned_to_win_over_all_tokens() -> None:
    with pytest.raises(ValidationError, match=r"student\.softmax: vocabulary"):
        make_task(serving=SERVING)
    with pytest.raises(ValidationError, match=r"student\.form: read"):
        make_task(serving=SERVING, student={"form": "write", "softmax": "vocabulary"})
    with pytest.raises(ValidationError, match="leave one of them out"):
        make_task(serving={**SERVING, "weights": "adapter"}, student={"softmax": "vocabulary"})
    make_task(serving=SERVING, student={"softmax": "vocabulary"})


@pytest.mark.slow
def test_an_engine_that_writes_reads_as_the_student_does(
    tiny_llama: Path, tokenizer: FastTokenizer, tmp_path: Path
) -> None:
    made = job(tiny_llama, tmp_path / "job", tokenizer, max_steps=120, softmax="vocabulary")
    train(made)
    merge(base=tiny_llama, adapter=made.folder / "adapter", out=tmp_path / "merged")
    task = make_task(serving=SERVING, student={"softmax": "vocabulary", "dtype": "float32"})
    learned = predict(load_base(tmp_path / "merged", torch.float32), made.codec, tokenizer, task, rows())
    assert label_agreement(rows(), learned) > 0.8  # it has learned something to be read

    bundle = build(tmp_path / "bundle", task, made.codec, tmp_path / "merged", [], {})
    assert bundle.runs_as == "prompt_logprobs"
    with start_checked_engine(bundle, startup_queries(bundle), tmp_path / "engine.log") as engine:
        said = asyncio.run(through_engine(bundle, engine.url, rows(), False, lambda _: None))
    # The tail beyond the likeliest tokens is not told, so a close call may fall the other way.
    assert label_agreement(learned, said) > 0.97


def test_bundles_say_how_their_model_is_read(tiny_llama: Path, tokenizer: FastTokenizer, tmp_path: Path) -> None:
    written = Codec.compile(make_task(), [], tokenizer, "write")
    assert build(tmp_path / "bundle", make_task(), written, tiny_llama, [], {}).runs_as == "write"

"""How an engine is asked: the form `read` on a causal LM (`prompt_logprobs`), and text after symbols."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import ValidationError

from engine.client import VllmClient
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
from task.forms import Decoded
from task.labels import Example, Label
from task.spec import Task
from task.tokenizer import FastTokenizer
from task.written_texts import most_tokens
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


TEXTS = make_task(
    roles=[{"name": "product"}, {"name": "synonym", "kind": "text"}], student={"form": "write"},
    serving={"dtype": "float32", "max_model_len": 256},
)


def label(
    query: str, task: Task, codec: Codec, tokenizer: FastTokenizer,
    completions: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> Decoded:
    """What the client makes of the answers of a server that completes prompts."""
    async def ask() -> Decoded:
        app = web.Application()
        app.router.add_post("/v1/completions", completions)
        async with TestServer(app) as server, VllmClient(
            str(server.make_url("")).rstrip("/"), name="m", task=task, codec=codec, tokenizer=tokenizer
        ) as client:
            (found,) = await client.label([query])
        return found

    return asyncio.run(ask())


def test_a_symbol_out_of_place_is_asked_for_again_among_those_that_fit(tokenizer: FastTokenizer) -> None:
    """The first answer counts words wrongly; its beginning stands, and the rest is asked for place by place."""
    task = make_task(student={"form": "write"}, serving=TEXTS.serving)
    codec = Codec.compile(task, [], tokenizer)
    row = Example("oat milk", (Label("product", "oat milk", 0, 8), Label("aisle", "dairy"), Label("mark", "vegan")))
    right = codec.encode(row, tokenizer).targets
    allowed = codec.allowed_symbols(row.query)
    bodies: list[dict[str, Any]] = []

    async def completions(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        bodies.append(body)
        at = len(body["prompt"]) - len(codec.prompt(row.query, tokenizer).ids)
        ids = right[at : at + body["max_tokens"]] if len(bodies) > 1 else [right[0], right[-1], *right[2:]]
        return web.json_response({"choices": [{
            "token_ids": ids, "logprobs": {"token_logprobs": [-0.1] * len(ids)}, "finish_reason": "length",
        }]})

    found = label(row.query, task, codec, tokenizer, completions)
    assert found.fault is None
    assert {x.key for x in found.labels} == {x.key for x in row.labels}
    assert [(b["max_tokens"], b["allowed_token_ids"]) for b in bodies] == [
        (len(right), list(codec.symbol_ids)), (1, sorted(allowed[1])), (len(right) - 2, list(codec.symbol_ids)),
    ]


def test_texts_alone_are_asked_for_at_once(tokenizer: FastTokenizer) -> None:
    task = make_task(roles=[{"name": "synonym", "kind": "text"}], student={"form": "write"}, serving=TEXTS.serving)
    codec = Codec.compile(task, [], tokenizer)
    row = Example("oat milk", (Label("synonym", "oat drink"),))
    text = codec.encode(row, tokenizer).targets
    bodies: list[dict[str, Any]] = []

    async def completions(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return web.json_response({"choices": [{
            "token_ids": text, "logprobs": {"token_logprobs": [-0.1] * len(text)}, "finish_reason": "stop",
        }]})

    assert [x.key for x in label(row.query, task, codec, tokenizer, completions).labels] == [x.key for x in row.labels]
    assert [b["prompt"] for b in bodies] == [codec.prompt(row.query, tokenizer).ids]


@pytest.mark.parametrize("stops", [True, False])
def test_texts_are_asked_for_after_the_symbols(tokenizer: FastTokenizer, stops: bool) -> None:
    """The engine first writes symbols, of which only symbols are allowed, then text, which nothing limits."""
    codec = Codec.compile(TEXTS, [], tokenizer)
    row = Example("oat milk", (Label("product", "oat milk", 0, 8), Label("synonym", "oat drink")))
    prompt, answer = codec.prompt(row.query, tokenizer).ids, codec.encode(row, tokenizer).targets
    symbols, text = answer[: codec.symbol_count(row.query)], answer[codec.symbol_count(row.query) :]
    bodies: list[dict[str, Any]] = []

    async def completions(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        ids = symbols if len(bodies) == 1 else text if stops else text[:-2]  # cut off before the line ends
        return web.json_response({"choices": [{
            "token_ids": ids, "logprobs": {"token_logprobs": [-0.1] * len(ids)},
            "finish_reason": "stop" if len(bodies) == 2 and stops else "length",
        }]})

    found = label(row.query, TEXTS, codec, tokenizer, completions)
    assert found.fault is None
    assert [x.key for x in found.labels] == [x.key for x in row.labels[: 2 if stops else 1]]
    assert bodies[0]["prompt"] == prompt
    assert bodies[0]["allowed_token_ids"] == list(codec.symbol_ids)
    assert bodies[0]["max_tokens"] == bodies[0]["min_tokens"] == len(symbols)
    assert bodies[1]["prompt"] == prompt + symbols
    assert "allowed_token_ids" not in bodies[1]
    assert bodies[1]["max_tokens"] == most_tokens(codec.texts)

"""A served text that has to find an item of the catalogue, and finds none, is left out; whoever gave it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from engine.client import VllmClient
from serving.release.bundle import Bundle, build, copy_small, open_bundle, open_copy
from serving.release.head_cache import HeadCache
from serving.routing.kept_answers import Store
from serving.routing.live_teacher import LiveTeacher
from serving.routing.route import Answer, Route
from task.codec import Codec
from task.errors import InputError
from task.labels import Example, Label
from task.serving_settings import Consult, Serving
from task.spec import Task
from task.tokenizer import FastTokenizer
from task.word_index import WordIndex
from tests.conftest import make_task

ITEMS = WordIndex.of(["Oat Drink 1 l Drinks", "Rye Bread Bakery"])
ROW = Example("oat milk", (Label("synonym", "oat drink"), Label("synonym", "oat bread"), Label("broader", "unicorn")))
ALL = [("broader", "unicorn"), ("synonym", "oat bread"), ("synonym", "oat drink")]
FOUND = [ALL[0], ALL[2]]


@pytest.fixture
def texts() -> Task:
    return make_task(
        roles=[
            {"name": "synonym", "kind": "text", "most": 2, "grounded": True},
            {"name": "broader", "kind": "text", "most": 1},
        ],
        student={"form": "write"}, serving={"dtype": "float32", "max_model_len": 256},
        data={"dir": ".", "labels": "l.jsonl", "catalogue": "c.jsonl"},
    )


@pytest.fixture
def made(texts: Task, tiny_llama: Path, tokenizer: FastTokenizer, tmp_path: Path) -> Callable[..., Bundle]:
    """A bundle of the task, with the words of the catalogue or without."""
    return lambda items: build(
        tmp_path / "bundle", texts, Codec.compile(texts, [], tokenizer), tiny_llama, [], {}, items=items
    )


def answered(bundle: Bundle, tokenizer: FastTokenizer, store: Store | None = None) -> Answer:
    """The answer to the query, of an engine whose student writes all three texts.

    Args:
        store: With one the student is never sure enough, and a teacher is asked, who says the same.
    """
    ids = bundle.codec.encode(ROW, tokenizer).targets

    async def completions(_: web.Request) -> web.StreamResponse:
        return web.json_response({"choices": [{
            "token_ids": ids, "logprobs": {"token_logprobs": [-0.01] * len(ids)}, "finish_reason": "stop",
        }]})

    async def chat(_: web.Request) -> web.StreamResponse:
        said = json.dumps({"labels": [{"role": x.role, "text": x.text} for x in ROW.labels]})
        return web.json_response({"choices": [{"message": {"content": said}, "finish_reason": "stop"}]})

    async def ask() -> Answer:
        app = web.Application()
        app.router.add_post("/v1/completions", completions)
        app.router.add_post("/v1/chat/completions", chat)
        async with TestServer(app) as server:
            url = str(server.make_url("")).rstrip("/")
            settings = bundle.task.serving if store is None else Serving.model_validate({"certain": {"uncertain": 1.0}})
            client = VllmClient.of(bundle, url, tokenizer)
            route = Route(bundle, HeadCache(bundle.folder / "cache"), client, settings, store=store)
            if store is not None:
                consult = Consult.model_validate({"per_hour": 9, "base_url": f"{url}/v1", "timeout_s": 5.0})
                route.use_teacher(LiveTeacher(consult, bundle.task, processes=1, on_outcome=lambda _: None))
            try:
                return await route.missed(ROW.query, due=asyncio.get_running_loop().time() + 5.0)
            finally:
                await route.close()

    return asyncio.run(ask())


def texts_of(answer: Answer) -> list[tuple[str, str]]:
    return sorted((x.role, x.text) for x in answer.decoded())


@pytest.mark.parametrize(("items", "expected"), [(ITEMS, FOUND), (None, ALL)])
def test_the_bundle_knows_what_can_be_found(
    made: Callable[..., Bundle], tokenizer: FastTokenizer, items: WordIndex | None, expected: list[tuple[str, str]]
) -> None:
    """One without the words, as of before there were any, leaves nothing out."""
    answer = answered(made(items), tokenizer)
    assert (answer.status, texts_of(answer)) == ("ok", expected)


def test_what_a_live_teacher_says_is_looked_up_too_before_it_is_kept(
    made: Callable[..., Bundle], tokenizer: FastTokenizer, tmp_path: Path
) -> None:
    bundle, store = made(ITEMS), Store(tmp_path / "store.sqlite", ttl_s=60.0, max_rows=9)
    answer = answered(bundle, tokenizer, store)
    assert (answer.source, texts_of(answer)) == ("teacher", FOUND)
    kept = store.get(bundle.id, text="oat milk")
    assert kept is not None
    assert sorted((x.role, x.text) for x in kept.decoded()) == FOUND


def test_a_worker_has_the_words_in_its_copy_and_damage_is_named(made: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = made(ITEMS)
    copy = open_copy(copy_small(bundle, tmp_path / "copy"))
    assert copy.items is not None
    assert copy.items.has_all_words("rye")
    (bundle.folder / "items" / "words.txt").write_text("unicorn\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"items/words\.txt is changed"):
        open_bundle(bundle.folder)

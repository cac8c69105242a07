"""`POST /v1/understand`: several tasks about one query, each part by a deadline of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.client import VllmClient
from serving.gateway.admission import Callers
from serving.gateway.api_keys import make_key, read_keys
from serving.gateway.messages import UnderstandLine, UnderstandResponse
from serving.release.bundle import Bundle, build
from serving.release.head_cache import HeadCache
from serving.routing.kept_answers import Store
from serving.routing.route import Route
from serving.routing.task_routes import Choice, Routes
from task.codec import Codec
from task.labels import Example, Label
from task.serving_settings import Serving
from task.tokenizer import FastTokenizer
from tests import simulated_time
from tests.conftest import make_task
from tests.engine.stand_in import StandIn, engine
from tests.serving.conftest import Harness, Open

WORDS = make_task(
    name="words", roles=[{"name": "product"}, {"name": "synonym", "kind": "text"}], student={"form": "write"},
    data={"dir": ".", "labels": "labels.jsonl", "max_query_chars": 40},
)
HEAD = [Example("oat milk", (Label("synonym", "oat drink", confidence=0.8),))]
PLAIN = make_task(name="words", roles=[{"name": "product"}])


class Both:
    """Two tasks behind one gateway: `toy`, whose student reads, and `words`, with a student of its own."""

    def __init__(self, toy: Harness, words: StandIn) -> None:
        self.toy, self.words, self.client = toy, words, toy.client

    async def ask(self, query: str = "rice milk", **more: Any) -> dict[str, Any]:
        response = await self.client.post("/v1/understand", json={"query": query, **more})
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        UnderstandResponse.model_validate(found)
        return found


@pytest.fixture
def both(harness: Open, tiny_llama: Path, tokenizer: FastTokenizer, tmp_path: Path) -> Open:
    """Opens the two: `async with both() as b`; `task` is the second one."""

    @asynccontextmanager
    async def opened(task: Any = WORDS, *, timeout_s: float = 5.0, **settings: Any) -> AsyncIterator[Both]:
        codec = Codec.compile(task, [], tokenizer)
        bundle: Bundle = build(tmp_path / "words", task, codec, tiny_llama, HEAD if task is WORDS else [], {})
        s = Serving.model_validate({"request_timeout_s": timeout_s, "write_back": {"probability": 0.5}})
        async with harness(**settings) as toy, engine(codec, tokenizer) as stand_in:
            client = VllmClient(stand_in.url, name="m", task=task, codec=codec, tokenizer=tokenizer)
            store = Store(tmp_path / "words.sqlite", ttl_s=60.0, max_rows=100)
            route = Route(bundle, HeadCache(bundle.folder / "cache"), client, s, store=store)
            toy.gateway.routes = Routes({"toy": Choice(toy.route), "words": Choice(route)})
            try:
                yield Both(toy, stand_in)
            finally:
                await route.close()
                store.close()

    return opened


def part(found: dict[str, Any], task: str) -> dict[str, Any]:
    return next(p for p in found["parts"] if p["task"] == task)


def test_one_call_gives_labels_categories_and_rewrites(both: Open) -> None:
    async def run() -> None:
        async with both() as b:
            found = await b.ask("oat milk")
            assert [(x["task"], x["text"]) for x in found["labels"]] == [("toy", "oat milk")]
            assert [(x["task"], x["role"], x["text"]) for x in found["categories"]] == [("toy", "aisle", "dairy")]
            assert found["rewrites"] == [{
                "role": "synonym", "text": "oat drink", "start": None, "end": None, "confidence": 0.8, "task": "words",
            }]
            assert [(p["source"], p["status"], p["error"]) for p in found["parts"]] == [("cache", "ok", None)] * 2
            asked = await b.ask("rice MILK", tasks=["toy"])
            assert [p["task"] for p in asked["parts"]] == ["toy"]
            assert (asked["labels"][0]["text"], b.words.requests) == ("MILK", 0)
            text = (await b.client.get("/metrics")).text
            assert 'limbeck_requests_total{path="/v1/understand",status="200"} 2.0' in text
            assert text.count('source="cache",status="ok"} 1.0') == 2

    asyncio.run(run())


def test_a_slow_part_does_not_hold_up_the_other_and_is_kept_for_later(both: Open) -> None:
    async def run() -> None:
        async with both(PLAIN, timeout_s=0.1) as b:
            b.words.delay_s = 0.4
            began = asyncio.get_running_loop().time()
            found = await b.ask("rice MILK")
            assert asyncio.get_running_loop().time() - began == pytest.approx(0.1)
            assert [(x["task"], x["text"]) for x in found["labels"]] == [("toy", "MILK")]
            late = part(found, "words")
            assert (late["status"], late["source"], late["error"]["message"]) == (
                "late", None, "not answered by the deadline"
            )
            await asyncio.sleep(0.5)
            again = part(await b.ask("rice MILK"), "words")
            assert (again["status"], again["source"], b.words.requests) == ("ok", "kept", 1)
            assert 'limbeck_refused_total{reason="deadline"} 1.0' in (await b.client.get("/metrics")).text

    simulated_time.run(run())


def test_a_request_says_how_long_a_task_may_take(both: Open) -> None:
    async def run() -> None:
        async with both(PLAIN) as b:
            b.words.mood = "hanging"
            found = await b.ask(timeout_ms={"words": 50})
            assert (part(found, "words")["status"], part(found, "toy")["status"]) == ("late", "ok")
            assert part(found, "words")["ms"] >= 49
            response = await b.client.post(
                "/v1/understand", json={"query": "rice milk"}, headers={"X-Request-Timeout-Ms": "100"}
            )
            assert part(response.json(), "words")["status"] == "late"

    simulated_time.run(run())


def test_a_stream_sends_each_part_as_soon_as_it_is_there(both: Open) -> None:
    async def run() -> None:
        async with both(PLAIN) as b:
            b.words.delay_s = 0.2
            response = await b.client.post("/v1/understand", json={"query": "rice\u2028MILK", "stream": True})
            assert response.headers["content-type"] == "application/x-ndjson"
            found = [json.loads(x) for x in response.text.splitlines()]
            assert [(x["task"], x["labels"][0]["text"]) for x in found] == [("toy", "MILK"), ("words", "MILK")]
            for line in found:
                UnderstandLine.model_validate(line)

    simulated_time.run(run())


def test_a_part_without_its_engine_fails_alone_and_all_of_them_together(both: Open) -> None:
    async def run() -> None:
        async with both(PLAIN) as b:
            b.words.mood = "gone"
            found = await b.ask("rice MILK")
            assert part(found, "words")["status"] == "failed"
            assert part(found, "words")["error"]["type"] == "overloaded_error"
            assert found["labels"][0]["text"] == "MILK"
            b.toy.engine.mood = "gone"
            response = await b.client.post("/v1/understand", json={"query": "rye bread"})
            assert (response.status_code, response.headers["Retry-After"]) == (503, "1")

    asyncio.run(run())


@pytest.mark.parametrize(("body", "status", "said"), [
    ({"tasks": ["toys"]}, 404, "no task 'toys'; served: toy, words"),
    ({"tasks": []}, 422, "tasks"),
    ({"timeout_ms": {"toys": 5}}, 422, "task 'toys' is not asked; asked: toy, words"),
    ({"timeout_ms": {"toy": 0}}, 422, "timeout_ms"),
    ({"query": "x" * 41}, 422, "41 characters; at most 40"),
    ({"stream": "yes"}, 422, "stream"),
])
def test_what_cannot_be_asked_is_refused(both: Open, body: dict[str, Any], status: int, said: str) -> None:
    async def run() -> None:
        async with both() as b:
            response = await b.client.post("/v1/understand", json={"query": "milk"} | body)
            assert response.status_code == status
            assert said in response.text
            assert b.toy.engine.requests == b.words.requests == 0

    asyncio.run(run())


def test_nothing_served_is_told_and_each_task_is_charged(both: Open, tmp_path: Path) -> None:
    async def run() -> None:
        async with both() as b:
            secret = make_key(tmp_path / "keys.json", "shop", rate=0.001, burst=3, concurrency=2)
            b.toy.gateway.callers = Callers(read_keys(tmp_path / "keys.json"))
            key = {"X-API-Key": secret}
            first = await b.client.post("/v1/understand", json={"query": "oat milk"}, headers=key)
            second = await b.client.post("/v1/understand", json={"query": "oat milk"}, headers=key)
            assert (first.status_code, second.status_code) == (200, 429)
            b.toy.gateway.callers = Callers(None)
            b.toy.gateway.routes = Routes({})
            assert (await b.client.post("/v1/understand", json={"query": "oat milk"})).status_code == 400

    asyncio.run(run())

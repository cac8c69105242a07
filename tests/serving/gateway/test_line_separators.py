"""Streamed lines stay whole to clients that end a line at U+0085, U+2028 and U+2029 as well."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.serving.conftest import Open

QUERIES = ["rice\u2028MILK", "oat\u0085milk", "soy\u2029 MILK", "a\x0bb\x0cc\x1cd", "oat milk", " \u2028 "]


async def lines_of(response: httpx.Response) -> list[str]:
    return [line async for line in response.aiter_lines()]


@pytest.mark.parametrize("mood", ["well", "broken"])
def test_a_batch_can_be_read_line_by_line(harness: Open, mood: str) -> None:
    async def run() -> None:
        async with harness() as h:
            h.engine.mood = mood
            answer = await h.client.post("/v1/label:batch", json={"queries": QUERIES})
            for lines in (await lines_of(answer), answer.text.splitlines(), answer.text.split("\n")[:-1]):
                rows: list[dict[str, Any]] = [json.loads(x) for x in lines]
                assert {x["index"]: x["query"] for x in rows} == dict(enumerate(QUERIES))
            assert any("error" in x for x in rows) == (mood == "broken")
            if mood == "well":
                labels = next(x["labels"] for x in rows if x["index"] == 0)
                assert [x["text"] for x in labels if x["role"] == "product"] == ["MILK"]

    asyncio.run(run())


@pytest.mark.parametrize("query", QUERIES)
def test_events_can_be_read_line_by_line(harness: Open, query: str) -> None:
    async def run() -> None:
        async with harness() as h:
            body = {"model": "student", "stream": True, "messages": [{"role": "user", "content": query.upper()}]}
            answer = await h.client.post("/v1/chat/completions", json=body)
            whole = await h.client.post("/v1/chat/completions", json=body | {"stream": False})
            wanted = json.loads(whole.json()["choices"][0]["message"]["content"])
            for lines in (await lines_of(answer), answer.text.splitlines(), answer.text.split("\n")):
                events = [x.removeprefix("data: ") for x in lines if x]
                assert events.pop() == "[DONE]"
                content = "".join(json.loads(e)["choices"][0]["delta"].get("content", "") for e in events)
                assert json.loads(content)["labels"] == wanted["labels"]

    asyncio.run(run())

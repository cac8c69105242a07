"""What OpenAI's API has beside plain answers: usage in a stream, models by name."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from serving.routing.task_routes import Choice, Routes
from tests.serving.conftest import Open


def test_a_stream_ends_with_the_usage_where_it_is_asked_for(harness: Open) -> None:
    """As OpenAI's does: a last chunk without choices, and no such chunk for a client that did not ask."""

    async def run() -> None:
        async with harness() as h:
            async def chunks(query: str, **more: Any) -> list[dict[str, Any]]:
                body = {"model": "toy", "stream": True, "messages": [{"role": "user", "content": query}], **more}
                text = (await h.client.post("/v1/chat/completions", json=body)).text
                events = [x.removeprefix("data: ") for x in text.split("\n\n") if x]
                assert events.pop() == "[DONE]"
                return [json.loads(x) for x in events]

            for query in ("rice MILK", "oat milk"):  # the student's answer, and the cache's
                found = await chunks(query, stream_options={"include_usage": True, "include_obfuscation": False})
                whole = (await h.client.post("/v1/chat/completions", json={
                    "model": "toy", "stream_options": {"include_usage": True},  # nothing is streamed: of no consequence
                    "messages": [{"role": "user", "content": query}],
                })).json()
                assert (found[-1]["choices"], found[-1]["usage"]) == ([], whole["usage"])
                assert found[-1]["id"].startswith("chatcmpl-")
                assert [x["usage"] for x in found[:-1]] == [None] * 2
            assert whole["usage"]["total_tokens"] == 0  # nothing was read for an answer from the cache
            for more in ({}, {"stream_options": None}, {"stream_options": {"include_usage": False}}):
                found = await chunks("rice MILK", **more)
                assert [len(x["choices"]) for x in found] == [1, 1]
                assert not any("usage" in x for x in found)
            wrong = await h.client.post("/v1/chat/completions", json={
                "model": "toy", "messages": [{"role": "user", "content": "a"}],
                "stream_options": {"include_usage": "yes"},
            })
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (422, "stream_options.include_usage")

    asyncio.run(run())


def test_every_name_that_is_taken_is_listed_and_can_be_looked_up(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            body = {"messages": [{"role": "user", "content": "oat milk"}]}
            listed = (await h.client.get("/v1/models")).json()["data"]
            for entry in listed:
                assert (await h.client.get(f"/v1/models/{entry['id']}")).json() == entry
                answer = await h.client.post("/v1/chat/completions", json=body | {"model": entry["id"]})
                assert answer.status_code == 200
            unknown = await h.client.get("/v1/models/gpt-4")
            assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "model")
            assert "student" in unknown.json()["error"]["message"]
            assert (await h.client.get("/v1/models/")).status_code == 404
            assert (await h.client.post("/v1/models/toy")).status_code == 405
            assert 'path="/v1/models/{id}",status="404"' in (await h.client.get("/metrics")).text
            h.gateway.routes = Routes({"toy": Choice(h.route), "other": Choice(h.route)})
            two = [m["id"] for m in (await h.client.get("/v1/models")).json()["data"]]
            assert two == ["toy", h.route.bundle.model_name, "other"]
            assert (await h.client.get("/v1/models/student")).status_code == 404

    asyncio.run(run())

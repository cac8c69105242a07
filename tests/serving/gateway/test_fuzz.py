"""Mutated requests: the response is always an answer, a client error, or load shedding."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from benchmarks.mutations import mutated
from task.labels import Label
from task.validation import violation
from tests.serving.conftest import Harness, Open

REQUESTS = 3_000


async def sent(
    harness: Harness, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes, rng: random.Random
) -> tuple[int, bytes]:
    """What the gateway answers; sometimes the body comes in pieces, or the client goes away."""
    cut = rng.randrange(len(body) + 1)
    parts = [body] if rng.random() < 0.7 else [body[:cut], body[cut:]]
    messages = [
        {"type": "http.request", "body": p, "more_body": n + 1 < len(parts)} for n, p in enumerate(parts)
    ]
    if rng.random() < 0.05:
        messages = [{"type": "http.disconnect"}]
    status, out = 0, b""

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, out
        status = message.get("status", status)
        out += message.get("body", b"")

    scope = {"type": "http", "method": method, "path": path, "headers": headers, "client": ("test", 1)}
    await harness.gateway(scope, receive, send)
    return status, out


def test_no_request_brings_it_down_or_gets_more_than_labels(harness: Open) -> None:
    async def run() -> None:
        rng = random.Random(0)
        async with harness(request_timeout_s=2.0, certain={"uncertain": 0.0}) as h:
            seen: set[int] = set()
            for number in range(REQUESTS):
                request = mutated(rng)
                status, body = await sent(h, *request, rng)
                assert status in {0, 200, 400, 401, 404, 405, 408, 413, 415, 422, 431, 503}, (number, request, body)
                seen.add(status)
                if status == 200 and request[1] == "/v1/label":
                    found = json.loads(body) if body else {"labels": [], "query": ""}
                    labels = [Label(**x) for x in found["labels"]]
                    assert violation(h.route.bundle.task, found["query"], labels) is None
                elif status != 200 and body:
                    assert json.loads(body)["error"]["message"] or request[1] == "/readyz"
            assert seen >= {200, 400, 404, 405, 413, 415, 422, 431}
            for _ in range(200):
                if not h.route.waiting:
                    break
                await asyncio.sleep(0.05)
            assert (h.route.waiting, len(h.route._in_flight), len(h.route._tasks)) == (0, 0, 0)
            assert (await h.label("oat milk")).status_code == 200

    asyncio.run(run())

"""The HTTP server around a token classifier in OpenVINO; `engine.openvino_kind` starts it as a process.

It speaks the part of vLLM's API that `engine.client` uses: `POST /pooling` with lists of token ids, answered by raw
scores as base64 of float32, `GET /health`, and `GET /metrics` for Prometheus. It listens on loopback only. Waiting
prompts of different requests share a forward pass, and take turns: a single query does not wait for the end of a batch
of hundreds.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from engine.loopback import LOOPBACK
from engine.process import KEEP_ALIVE_S
from task.openvino_runtime import TokenClassifier

Scores = npt.NDArray[np.float32]
Forward = Callable[[Sequence[Sequence[int]]], list[Scores]]

_MOST_TOKENS: Final = 512
"""Tokens of a forward pass, padding included: enough for the processor's matrix units."""
_LEAST_TOKENS: Final = 64
"""So many take hardly longer than one, which reads all weights too."""
_PASS_S: Final = 0.25
"""What a pass may take, because a query that comes meanwhile waits for its end. 512 tokens of SmolLM2-135M take some
0.1 s on two cores with bf16 products, and 1.2 s on two with AVX2 only, where 128 at a time are as many tokens a second
(427 and 433). Where other programs share those, the watchdog's probe would wait so long that a busy engine was taken
for one that hangs."""


class RequestError(ValueError):
    """A request that the server does not take; the message says why."""


@dataclass(eq=False)
class _Request:
    """A request: prompts that wait, by length, and the scores so far."""

    waiting: deque[tuple[int, Sequence[int]]]
    found: dict[int, Scores] = field(default_factory=dict)
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batches:
    """Puts prompts of concurrent requests into shared forward passes; belongs to one event loop.

    Args:
        forward: Computes the scores of a batch; called in a thread, never twice at a time.
        rows: The maximum number of prompts in a batch.
    """

    def __init__(self, forward: Forward, *, rows: int) -> None:
        self._forward, self._rows = forward, rows
        self._requests: deque[_Request] = deque()
        self._wake = asyncio.Event()
        self._pass_tokens = _MOST_TOKENS
        self._thread = ThreadPoolExecutor(1)
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "limbeck_engine_forward_seconds", "Forward passes, by their duration", registry=self.registry,
            buckets=(0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0),
        )
        self._prompts = Counter("limbeck_engine_prompts", "Prompts that were computed", registry=self.registry)
        self._tokens = Counter("limbeck_engine_tokens", "Their tokens, without padding", registry=self.registry)
        waiting = Gauge("limbeck_engine_waiting_prompts", "Prompts that wait for a pass", registry=self.registry)
        waiting.set_function(lambda: sum(len(r.waiting) for r in self._requests))

    async def scores(self, prompts: Sequence[Sequence[int]]) -> list[Scores]:
        """Scores of prompts, in order."""
        if not prompts:
            return []
        request = _Request(deque(sorted(enumerate(prompts), key=lambda x: len(x[1]))))
        self._requests.append(request)
        self._wake.set()
        try:
            await request.done
        finally:  # of a client that has gone nothing more is computed
            request.waiting.clear()
        return [request.found[i] for i in range(len(prompts))]

    async def run(self) -> None:
        """Compute until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = list(self._taken())
            if not batch:
                self._wake.clear()
                await self._wake.wait()
                continue
            prompts = [p for _, _, p in batch]
            started = loop.time()
            try:
                with self._seconds.time():
                    found = await loop.run_in_executor(self._thread, self._forward, prompts)
            except (RuntimeError, ValueError, MemoryError) as error:
                for request, _, _ in batch:
                    request.waiting.clear()
                    if not request.done.done():
                        request.done.set_exception(error)
                continue
            self._adapt(tokens=len(prompts) * max(map(len, prompts)), seconds=loop.time() - started)
            self._prompts.inc(len(prompts))
            self._tokens.inc(sum(map(len, prompts)))
            for (request, number, _), scores in zip(batch, found, strict=True):
                request.found[number] = scores
            for request, _, _ in batch:
                if not request.waiting and not request.done.done():
                    request.done.set_result(None)

    def _adapt(self, *, tokens: int, seconds: float) -> None:
        """Let the next pass be as large as this one's speed allows; half a step, as a single pass may be disturbed."""
        if tokens > _LEAST_TOKENS // 2:  # what is not full tells how long the weights take, not the tokens
            fitting = tokens * _PASS_S / max(seconds, 1e-9)
            limit = (self._pass_tokens + min(fitting, _MOST_TOKENS)) / 2 if fitting > self._pass_tokens else fitting
            self._pass_tokens = int(min(_MOST_TOKENS, max(_LEAST_TOKENS, limit)))

    def _taken(self) -> Iterator[tuple[_Request, int, Sequence[int]]]:
        """The next batch: of each request in turn a prompt, until rows or tokens are enough."""
        count = longest = 0
        while self._requests and count < self._rows:
            request = self._requests[0]
            if not request.waiting:
                self._requests.popleft()
                continue
            longest = max(longest, len(request.waiting[0][1]))
            if count and longest * (count + 1) > self._pass_tokens:
                return
            number, prompt = request.waiting.popleft()
            self._requests.rotate(-1)
            count += 1
            yield request, number, prompt


class Server:
    """The ASGI application."""

    def __init__(self, batches: Batches, *, name: str, max_tokens: int) -> None:
        self._batches, self._name, self._max_tokens = batches, name, max_tokens

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        """Answer a request."""
        path = (scope["method"], scope["path"])
        content = "application/json"
        if path == ("GET", "/health"):
            status, body = 200, b"{}"
        elif path == ("GET", "/metrics"):
            status, body, content = 200, generate_latest(self._batches.registry), CONTENT_TYPE_LATEST
        elif path == ("POST", "/pooling"):
            status, body = await self._pooling(await _body(receive))
        else:
            status, body = 404, _error(f"no {path[0]} {path[1]} here")
        await send({"type": "http.response.start", "status": status, "headers": [
            (b"content-type", content.encode()), (b"content-length", str(len(body)).encode()),
        ]})
        await send({"type": "http.response.body", "body": body})

    async def _pooling(self, body: bytes) -> tuple[int, bytes]:
        try:
            found = await self._batches.scores(self._prompts(body))
        except RequestError as error:
            return 400, _error(str(error))
        rows = [
            {"index": i, "data": base64.b64encode(x.tobytes()).decode()}
            for i, x in enumerate(found)
        ]
        return 200, json.dumps({"object": "list", "data": rows}).encode()

    def _prompts(self, body: bytes) -> list[list[int]]:
        try:
            read = json.loads(body)
            model, prompts = read["model"], read["input"]
        except (ValueError, KeyError, TypeError) as error:
            raise RequestError(f"expected a JSON object with model and input: {error}") from error
        if model != self._name:
            raise RequestError(f"no model {model!r} here; expected {self._name!r}")
        whole = isinstance(prompts, list) and all(
            isinstance(p, list) and p and all(type(i) is int and i >= 0 for i in p) for p in prompts
        )
        if not whole:
            raise RequestError("input: expected a list of lists of token ids")
        if any(len(p) > self._max_tokens for p in prompts):
            raise RequestError(f"input: a prompt has more than {self._max_tokens} tokens")
        checked: list[list[int]] = prompts
        return checked


async def _body(receive: Callable[[], Any]) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _error(text: str) -> bytes:
    return json.dumps({"error": {"message": text}}).encode()


def main() -> None:
    """Load the model, then serve until SIGTERM."""
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], required=True)
    parser.add_argument("--threads", type=int, help="by default all cores")
    parser.add_argument("--rows", type=int, required=True, help="the maximum number of prompts in a forward pass")
    parser.add_argument("--max-tokens", type=int, required=True, help="of a prompt")
    given = parser.parse_args()
    model = TokenClassifier(given.model, precision=given.precision, threads=given.threads, fixed=True)

    async def serve() -> None:
        batches = Batches(model.scores, rows=given.rows)
        computing = asyncio.create_task(batches.run())
        app: Any = Server(batches, name=given.name, max_tokens=given.max_tokens)
        try:
            await uvicorn.Server(uvicorn.Config(
                app, host=LOOPBACK, port=given.port, log_level="warning", access_log=False, lifespan="off", ws="none",
                timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=5,
            )).serve()
        finally:
            computing.cancel()

    import uvloop

    uvloop.run(serve())


if __name__ == "__main__":
    main()

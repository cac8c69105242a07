"""What a web framework costs a cache hit: the gateway as it is, Starlette's routing, Starlette, FastAPI.

    python -m benchmarks.gateway_routing [--rounds 20] [--requests 4000]

Cache hits answered per second of CPU, in process: each request is an ASGI scope with the headers of an HTTP client and
a JSON body, and goes through the application but through no server and no socket. All four do the same for a request:
API keys off, body limit, deadline, validation by pydantic, head cache, metrics, request id. They take turns in every
round, in another order each time. "gateway" has its paths in a dict; "starlette routing" is the same gateway, with its
own requests and responses, under Starlette's router. The rule, fixed before the run: the gateway uses Starlette's
routing if that costs a hit at most 10 %. Writes benchmarks/results/gateway_routing.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import uvloop
from fastapi import FastAPI
from starlette import routing
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from limbeck.stage import device, git_commit, versions
from serving.gateway.answer_json import answer_json
from serving.gateway.app import PATHS, Gateway, Handler, not_found, wrong_method
from serving.gateway.http_exchange import Exchange
from serving.gateway.messages import BatchRequest, ChatRequest, LabelRequest
from serving.release.bundle import Bundle
from serving.release.head_cache import HeadCache, build
from serving.routing.route import Route
from serving.routing.task_routes import Choice, Routes
from task.calibration import Calibrator
from task.files import write_json
from task.labels import Example, Label
from task.serving_settings import Serving
from task.spec import Task

RESULT = Path(__file__).parent / "results" / "gateway_routing.json"
MAX_COST = 0.10
QUERIES = [f"verdant machine oat milk {i} l" for i in range(1_000)]
Application = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


def main() -> None:
    """Take turns, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=4_000, help="of each application in each round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rates = uvloop.run(measured(Path(name), rounds=options.rounds, requests=options.requests))
    base = np.array(rates["gateway"])
    costs = {k: spread(base / np.array(v) - 1.0, 4) for k, v in rates.items() if k != "gateway"}
    write_json(RESULT, {
        "command": "python -m benchmarks.gateway_routing", "rounds": options.rounds, "requests": options.requests,
        "hits_per_cpu_second": {k: spread(np.array(v), 0) for k, v in rates.items()}, "added_cpu_per_hit": costs,
        "max_cost": MAX_COST, "use_starlette_routing": costs["starlette routing"]["median"] <= MAX_COST,
        "versions": versions() | {p: metadata.version(p) for p in ("starlette", "fastapi", "uvicorn", "pydantic")},
        "device": device(), "git": git_commit(),
    })
    print(RESULT)


async def measured(folder: Path, *, rounds: int, requests: int) -> dict[str, list[float]]:
    """Hits per second of CPU of each application, by round."""
    applications = made(folder)
    asked = [request_of(q) for q in QUERIES]
    bodies = {name: await answered(app, *asked[0]) for name, app in applications.items()}
    assert len(set(bodies.values())) == 1, bodies
    rates: dict[str, list[float]] = {name: [] for name in applications}
    names = list(applications)
    for number in range(-1, rounds):  # the first is a warm-up
        for name in names[number % len(names) :] + names[: number % len(names)]:
            app = applications[name]
            started = time.process_time()
            for i in range(requests):
                await answered(app, *asked[i % len(asked)])
            if number >= 0:
                rates[name].append(requests / (time.process_time() - started))
        if number >= 0:
            print(number, {k: round(v[-1]) for k, v in rates.items()}, flush=True)
    return rates


def request_of(query: str) -> tuple[dict[str, Any], bytes]:
    """Scope and body of a request, made before the clock runs."""
    body = json.dumps({"query": query}).encode()
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": "/v1/label", "raw_path": b"/v1/label", "query_string": b"", "root_path": "",
        "client": ("127.0.0.1", 50_000), "server": ("127.0.0.1", 8_080), "state": {},
        "headers": [
            (b"host", b"127.0.0.1:8080"), (b"user-agent", b"python-httpx/0.28"), (b"accept", b"*/*"),
            (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
        ],
    }, body


async def answered(app: Application, scope: Mapping[str, Any], body: bytes) -> bytes:
    """The body that an application answers with; anything but 200 is an error of this benchmark."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(dict(scope), receive, send)  # frameworks write into the scope
    assert sent[0]["status"] == 200, sent
    return bytes(sent[1]["body"])


def made(folder: Path) -> dict[str, Application]:
    """The applications by name, each with a route of its own to the same head cache."""
    task = Task.model_validate({
        "name": "market", "roles": [{"name": "brand"}, {"name": "product"}], "data": {"dir": ".", "labels": "l.jsonl"},
        "teacher": {"backend": "labels"},
    })
    labels = (Label("brand", "verdant machine", 0, 15, 0.998), Label("product", "oat milk", 16, 24, 0.97))
    build(folder, [Example(q, labels) for q in QUERIES], normaliser_name=task.normaliser, key="benchmark")
    manifest = {"id": "0123456789ab", "created": "2026-01-01T00:00:00+00:00", "model_name": "student@0"}

    def gateway(kind: type[Gateway]) -> Gateway:
        unused: Any = cast(Any, None)  # codec and student: a hit needs neither
        bundle = Bundle(folder, manifest, task, unused, Calibrator(), "read")
        return kind(Routes({task.name: Choice(Route(bundle, HeadCache(folder), unused, Serving()))}), Serving())

    return {
        "gateway": gateway(Gateway), "starlette routing": gateway(StarletteRoutedGateway),
        "starlette": in_starlette(gateway(Gateway)), "fastapi": in_fastapi(gateway(Gateway)),
    }


class StarletteRoutedGateway(Gateway):
    """The gateway under Starlette's router, with its own requests and responses."""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answer one request."""
        scope["app"] = self
        try:
            await ROUTER(scope, receive, send)
        except HTTPException:  # only the router raises it: there is no such path, or another method
            route = scope.get("route")
            path, handler = ("other", not_found) if route is None else (route.path, wrong_method)
            await self.respond(Exchange(scope, receive, send), path, handler)


class Endpoint:
    """A handler as an ASGI application: Starlette would wrap a function in its own, slower request and response."""

    def __init__(self, path: str, handler: Handler) -> None:
        self._path, self._handler = path, handler

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request that the router has given to this path."""
        await scope["app"].respond(Exchange(scope, receive, send), self._path, self._handler)


ROUTER = routing.Router(
    [routing.Route(path, Endpoint(path, handler), methods=[method]) for path, (method, handler) in PATHS.items()],
    redirect_slashes=False,
)


async def _other(_request: Request) -> Response:
    return Response()


def in_starlette(gateway: Gateway) -> Application:
    """The same work on Starlette's requests and responses."""

    async def label(request: Request) -> Response:
        started = time.perf_counter()
        limit = gateway.settings.max_body_bytes
        if int(request.headers.get("content-length", "0")) > limit:
            raise HTTPException(413)
        async with asyncio.timeout(gateway.settings.request_timeout_s):
            body = await request.body()
        if len(body) > limit:
            raise HTTPException(413)
        return _labelled(gateway, LabelRequest.model_validate_json(body), started, request.headers.get("x-request-id"))

    others = [(path, method) for path, (method, _) in PATHS.items() if path != "/v1/label"]
    return Starlette(routes=[
        routing.Route("/v1/label", label, methods=["POST"]),
        *(routing.Route(path, _other, methods=[method]) for path, method in others),
    ])


def in_fastapi(gateway: Gateway) -> Application:
    """The same work in FastAPI, which reads and validates the body."""
    app = FastAPI()

    @app.post("/v1/label", response_model=None)
    async def label(body: LabelRequest, request: Request) -> Response:
        started = time.perf_counter()
        if int(request.headers.get("content-length", "0")) > gateway.settings.max_body_bytes:
            raise HTTPException(413)
        return _labelled(gateway, body, started, request.headers.get("x-request-id"))

    @app.post("/v1/label:batch", response_model=None)
    async def batch(_body: BatchRequest) -> Response:
        return Response()

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(_body: ChatRequest) -> Response:
        return Response()

    return app


def _labelled(gateway: Gateway, request: LabelRequest, started: float, request_id: str | None) -> Response:
    """What the gateway does with a valid request that its cache knows."""
    choice = gateway._choice(request.task)
    gateway._check(choice, [request.query])
    route = choice.pick(request.query)
    answer = route.known(request.query) if request.use_cache else None
    assert answer is not None
    metrics = gateway.metrics
    metrics.count(metrics.answers, route.bundle.id, answer.source, answer.status)
    body = answer_json(answer, route) + b"}"
    metrics.count(metrics.requests, "/v1/label", 200)
    metrics.observe(metrics.seconds, time.perf_counter() - started, "/v1/label", answer.source)
    headers = {"x-request-id": request_id or os.urandom(8).hex()}
    return Response(body, media_type="application/json", headers=headers)


def spread(values: np.ndarray[Any, np.dtype[np.float64]], digits: int) -> dict[str, float]:
    """Median, least and most of the rounds."""
    return {
        "median": round(float(np.median(values)), digits), "least": round(float(values.min()), digits),
        "most": round(float(values.max()), digits),
    }


if __name__ == "__main__":
    main()

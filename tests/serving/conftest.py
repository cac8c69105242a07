from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.client import VllmClient
from serving.gateway.app import Gateway
from serving.gateway.uvicorn_server import EmbeddedServer, server_config
from serving.release.bundle import Bundle, build
from serving.release.head_cache import HeadCache
from serving.routing.kept_answers import Store
from serving.routing.route import Route
from serving.routing.task_routes import Choice, Routes
from serving.telemetry.metrics import Metrics
from task.codec import Codec
from task.labels import Example, Label
from task.serving_settings import Serving
from task.spec import Task
from task.tokenizer import FastTokenizer
from tests.engine.stand_in import StandIn, engine

HEAD = [Example("Oat milk", (Label("product", "Oat milk", 0, 8, 0.9), Label("aisle", "dairy")))]


class Harness:
    """A gateway with a route to the stand-in, and a client of it."""

    def __init__(self, gateway: Gateway, route: Route, stand_in: StandIn, client: httpx.AsyncClient) -> None:
        self.gateway, self.route, self.engine, self.client = gateway, route, stand_in, client
        self.uncertain: list[tuple[str, float]] = []

    async def label(self, query: str, **more: Any) -> httpx.Response:
        return await self.client.post("/v1/label", json={"query": query, **more})


Open = Callable[..., Any]


@pytest.fixture
def form() -> str:
    """The student's answer form; a test that parametrises it gets another one."""
    return "read"


@pytest.fixture
def bundle(tmp_path: Path, task: Task, tiny_llama: Path, tokenizer: FastTokenizer, form: str) -> Bundle:
    return build(tmp_path / "bundle", task, Codec.compile(task, [], tokenizer, form), tiny_llama, HEAD, {})


@pytest.fixture
def harness(bundle: Bundle, tokenizer: FastTokenizer, tmp_path: Path) -> Open:
    """Opens a harness with settings of its own: `async with harness(max_waiting=2) as h`."""

    @asynccontextmanager
    async def opened(**settings: Any) -> AsyncIterator[Harness]:
        s = Serving.model_validate(settings)
        async with engine(bundle.codec, tokenizer) as stand_in:
            client = VllmClient(
                stand_in.url, name=bundle.model_name, task=bundle.task, codec=bundle.codec, tokenizer=tokenizer,
                timeout_s=s.request_timeout_s, max_tokens=s.max_model_len,
            )
            store = Store(tmp_path / "store.sqlite", ttl_s=s.write_back.ttl_s, max_rows=s.write_back.rows)
            uncertain: list[tuple[str, float]] = []
            metrics = Metrics()
            route = Route(
                bundle, HeadCache(bundle.folder / "cache"), client, s, store=store,
                on_uncertain=lambda q, p: uncertain.append((q, p)),
                on_invalid=lambda kind: metrics.count(metrics.invalid, bundle.id, kind),
            )
            gateway = Gateway(Routes({bundle.task.name: Choice(route)}), s, metrics=metrics)
            transport = httpx.ASGITransport(app=gateway)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as http:
                found = Harness(gateway, route, stand_in, http)
                found.uncertain = uncertain
                try:
                    yield found
                finally:
                    await route.close()
                    store.close()

    return opened


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    """An ASGI application on a free port, served as a worker serves the gateway; gives its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = EmbeddedServer(server_config(app))
        task = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            await task

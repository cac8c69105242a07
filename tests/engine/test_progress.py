"""An engine that computes is not taken for one that hangs, however long its answers take."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from engine.interface import EngineError
from engine.loopback import free_port
from engine.openvino_server import Batches, Scores, Server
from engine.progress import computed
from engine.watchdog import Watchdog
from task.serving_settings import Serving

HANG_S = 3.0


@asynccontextmanager
async def served(forward: Callable[[Sequence[Sequence[int]]], list[Scores]]) -> AsyncIterator[int]:
    """The engine's own server around a forward pass; gives its port."""
    batches, port = Batches(forward, rows=1), free_port()
    app: Any = Server(batches, name="student", max_tokens=5)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    running = [asyncio.create_task(batches.run()), asyncio.create_task(server.serve())]
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = server.force_exit = True
        running[0].cancel()
        await asyncio.gather(*running, return_exceptions=True)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Watchdog]:
    """A watchdog of an engine with one query that waits, and a probe that waits behind it."""
    async def probe(*_: object) -> bool:
        await asyncio.sleep(3600)
        return True

    def of(port: int) -> Watchdog:
        found = Watchdog(settings=Serving(hang_s=HANG_S), log=Path("engine.log"), waiting=lambda _: 1, port=port)
        hosted: Any = SimpleNamespace(servable=SimpleNamespace(id="x", model_name="m"), checked_in=0)
        found.hosted.append(hosted)
        return found

    monkeypatch.setattr(Watchdog, "_probe", probe)
    return of


def ask(port: int, prompts: int) -> asyncio.Task[Any]:
    async def post() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            await client.post(f"http://127.0.0.1:{port}/pooling", json={"model": "student", "input": [[1]] * prompts})

    return asyncio.create_task(post())


def test_a_large_request_on_a_slow_processor_is_no_fault(watched: Callable[[int], Watchdog]) -> None:
    engine: Any = SimpleNamespace(alive=True, adapters=set())

    def slowly(prompts: Sequence[Sequence[int]]) -> list[Scores]:
        time.sleep(0.1)
        return [np.zeros((len(p), 1), np.float32) for p in prompts]

    async def run() -> None:
        async with served(slowly) as port:
            request = ask(port, 1_000)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(watched(port)._watch(engine), 2.5 * HANG_S)
            assert not request.done()
            request.cancel()

    asyncio.run(run())


def test_an_engine_that_computes_no_more_hangs_though_its_server_answers(watched: Callable[[int], Watchdog]) -> None:
    engine: Any = SimpleNamespace(alive=True, adapters=set())
    over = threading.Event()

    def stuck(prompts: Sequence[Sequence[int]]) -> list[Scores]:
        over.wait(60)
        return [np.zeros((len(p), 1), np.float32) for p in prompts]

    async def run() -> None:
        async with served(stuck) as port:
            request = ask(port, 1)
            try:
                with pytest.raises(EngineError, match="the engine has answered nothing for 3 s"):
                    await watched(port)._watch(engine)
            finally:
                over.set()
                request.cancel()

    asyncio.run(run())


def test_what_has_been_computed_is_counted() -> None:
    async def run() -> tuple[float | None, float | None, float | None]:
        async with served(lambda prompts: [np.zeros((len(p), 1), np.float32) for p in prompts]) as port:
            url = f"http://127.0.0.1:{port}"
            before = await computed(url, timeout_s=10)
            await ask(port, 7)
            return before, await computed(url, timeout_s=10), await computed(f"{url}/elsewhere", timeout_s=10)

    assert asyncio.run(run()) == (0.0, 7.0, None)


def test_no_engine_has_computed_nothing_known() -> None:
    assert asyncio.run(computed(f"http://127.0.0.1:{free_port()}", timeout_s=10)) is None

"""The operators' port: status, numbers of all workers, the engine's log and metrics, and purges. On loopback only."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import parse_qs

import aiohttp
import uvicorn
from pydantic import Field, ValidationError, model_validator

from engine.process import LOOPBACK
from serving.gateway.http_exchange import ClientGoneError, Exchange, HttpError
from serving.gateway.messages import Body
from serving.gateway.uvicorn_server import QuietServer
from serving.routing.kept_answers import Store
from serving.telemetry.metrics import of_all
from task.normalize import normaliser

if TYPE_CHECKING:
    from engine.watchdog import Keeper
    from serving.supervisor.supervisor import Supervisor

_LOG_BYTES = 65_536


class Purge(Body):
    """What no cache may answer any more: one of these."""

    query: str | None = None
    role: str | None = None
    value: Annotated[str | None, Field(description="Any labelling with this value of `role`")] = None
    older_than_s: Annotated[float | None, Field(ge=0.0, description="Answers and bundles made before")] = None
    nothing: Annotated[bool, Field(description="Take every purge back")] = False

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [self.query is not None, self.role is not None, self.older_than_s is not None, self.nothing]
        if sum(given) != 1 or (self.role is None) != (self.value is None):
            raise ValueError("give one of: query; role and value; older_than_s; nothing")
        return self


class Admin:
    """The ASGI application of the operators' port."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        back = supervisor.settings.write_back
        self._store = Store(supervisor.state.store, back.ttl_s, back.rows)

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        try:
            await self._answer(exchange)
        except HttpError as error:
            await exchange.answer(error.body(), error.status, headers=error.headers)
        except ClientGoneError:
            pass

    async def _answer(self, exchange: Exchange) -> None:
        match exchange.scope["method"], exchange.path:
            case "GET", "/status":
                await exchange.answer(json.dumps(self._supervisor.status(), indent=2).encode() + b"\n")
            case "GET", "/metrics":
                await exchange.answer(of_all(str(self._supervisor.state.metrics)), kind=b"text/plain; version=0.0.4")
            case "GET", "/engine/log":
                await exchange.answer(self._log(self._keeper(exchange)), kind=b"text/plain; charset=utf-8")
            case "GET", "/engine/metrics":
                text = await self._engine_metrics(self._keeper(exchange))
                await exchange.answer(text, kind=b"text/plain; version=0.0.4")
            case "POST", "/purge":
                await self._purge(exchange)
            case _:
                raise HttpError(404, "not_found", "GET /status /metrics /engine/log /engine/metrics, POST /purge")

    def _keeper(self, exchange: Exchange) -> Keeper:
        """The engine of the task that `?task=` names; without it that of the only one."""
        named = parse_qs(exchange.scope.get("query_string", b"").decode("latin-1")).get("task")
        lines = {line.task: line for line in self._supervisor.lines.values()}
        found = lines.get(named[0]) if named else next(iter(lines.values())) if len(lines) == 1 else None
        if found is None or found.active is None:
            raise HttpError(404, "not_found", f"?task= names one of: {', '.join(lines)}", param="task")
        return found.active.placed.keeper

    @staticmethod
    def _log(keeper: Keeper) -> bytes:
        with keeper.log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _LOG_BYTES))
            return file.read()

    @staticmethod
    async def _engine_metrics(keeper: Keeper) -> bytes:
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as session,
                session.get(f"{keeper.url}/metrics") as response,
            ):
                return await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise HttpError(503, "overloaded_error", f"the engine does not answer: {error}") from error

    async def _purge(self, exchange: Exchange) -> None:
        try:
            wanted = Purge.model_validate_json(await exchange.body(65_536))
        except ValidationError as error:
            raise HttpError(422, "invalid_request_error", error.errors()[0]["msg"]) from error
        deployed = [line.active for line in self._supervisor.lines.values() if line.active is not None]
        normalisers = [normaliser(name) for name in sorted({d.bundle.task.normaliser for d in deployed})]
        if wanted.nothing:
            self._store.restore()
        elif wanted.query is not None:
            for normalise in normalisers:
                self._store.purge(text=normalise(wanted.query))
        elif wanted.role is not None and wanted.value is not None:
            for normalise in normalisers:
                self._store.purge(label=(wanted.role, normalise(wanted.value)))
        elif wanted.older_than_s is not None:
            self._store.purge(before=time.time() - wanted.older_than_s)
        await exchange.answer(b'{"status":"purged"}')


async def listen(supervisor: Supervisor, port: int, on_port: Callable[[int], None] = lambda _port: None) -> None:
    """Serve the operators' port until cancelled."""
    server = QuietServer(uvicorn.Config(
        Admin(supervisor), host=LOOPBACK, port=port, log_level="warning", access_log=False, lifespan="off", ws="none"
    ))
    task = asyncio.create_task(server.serve())
    try:
        while not server.started and not task.done():
            await asyncio.sleep(0.02)
        if server.started:
            on_port(server.servers[0].sockets[0].getsockname()[1])
        await task
    finally:
        server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)

"""The operators' port, on loopback only: status, metrics of all workers, the engine's log and metrics, purges."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Self
from urllib.parse import parse_qs

import aiohttp
from pydantic import Field, ValidationError, model_validator

from engine.loopback import LOOPBACK
from engine.watchdog import Watchdog
from serving.gateway.http_exchange import ClientGoneError, Exchange, HttpError
from serving.gateway.messages import Body
from serving.gateway.uvicorn_server import EmbeddedServer, server_config
from serving.release.bundle import made_at
from serving.release.head_cache import HeadCache
from serving.routing.kept_answers import Store
from serving.routing.purge_counts import taken_out
from serving.supervisor.supervisor import Supervisor
from serving.telemetry.metrics import all_processes
from task.normalize import normaliser

_LOG_BYTES = 65_536


class Purge(Body):
    """Which answers no cache may give any more: exactly one of these."""

    query: str | None = None
    role: str | None = None
    value: Annotated[str | None, Field(description="Any labelling with this value of `role`")] = None
    older_than_s: Annotated[float | None, Field(ge=0.0, description="Answers and bundles made earlier")] = None
    nothing: Annotated[bool, Field(description="Undo every purge")] = False

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
        self._store = Store(
            supervisor.state.store, ttl_s=back.ttl_s, max_rows=back.rows, hashed=supervisor.state.kept.key.hash
        )

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
                state = self._supervisor.state
                text = all_processes(str(state.metrics), self._supervisor.engines(), state=state.path)
                await exchange.answer(text, kind=b"text/plain; version=0.0.4")
            case "GET", "/engine/log":
                await exchange.answer(self._log(self._watchdog(exchange)), kind=b"text/plain; charset=utf-8")
            case "GET", "/engine/metrics":
                text = await self._engine_metrics(self._watchdog(exchange))
                await exchange.answer(text, kind=b"text/plain; version=0.0.4")
            case "POST", "/purge":
                await self._purge(exchange)
            case _:
                paths = "GET /status, /metrics, /engine/log, /engine/metrics; POST /purge"
                raise HttpError(404, kind="not_found", message=f"no such path; expected one of {paths}")

    def _watchdog(self, exchange: Exchange) -> Watchdog:
        """Of the engine of the task that `?task=` names; without it, of the only task."""
        given = parse_qs(exchange.scope.get("query_string", b"").decode("latin-1")).get("task")
        rollouts = {r.task: r for r in self._supervisor.rollouts.values()}
        only = next(iter(rollouts.values())) if len(rollouts) == 1 else None
        found = rollouts.get(given[0]) if given else only
        if found is None or found.active is None:
            raise HttpError(404, kind="not_found", message=f"?task= names one of: {', '.join(rollouts)}", param="task")
        return found.active.placement.watchdog

    @staticmethod
    def _log(watchdog: Watchdog) -> bytes:
        with watchdog.log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _LOG_BYTES))
            return file.read()

    @staticmethod
    async def _engine_metrics(watchdog: Watchdog) -> bytes:
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as session,
                session.get(f"{watchdog.url}/metrics") as response,
            ):
                return await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise HttpError(503, kind="overloaded_error", message=f"the engine does not answer: {error}") from error

    async def _purge(self, exchange: Exchange) -> None:
        try:
            purge = Purge.model_validate_json(await exchange.body(65_536))
        except ValidationError as error:
            raise HttpError(422, kind="invalid_request_error", message=_said(error)) from error
        deployed = [r.active for r in self._supervisor.rollouts.values() if r.active is not None]
        roles = sorted({role.name for d in deployed for role in d.bundle.task.roles})
        if purge.role is not None and roles and purge.role not in roles:
            raise HttpError(
                422, kind="invalid_request_error",
                message=f"no task that is served has the role {purge.role!r}; expected one of: {', '.join(roles)}",
            )
        if purge.nothing:
            await exchange.answer(json.dumps({"status": "purged", "undone": self._store.restore()}).encode())
            return
        before = self._store.purges
        kept = await self._purge_kept(purge, [normaliser(name) for name in sorted({
            d.bundle.task.normaliser for d in deployed
        })])
        after = self._store.purges
        found = await asyncio.to_thread(lambda: {
            d.bundle.id: taken_out(HeadCache(d.copy / "cache", mapped=False), made=made_at(d.bundle), before=before,
                                   after=after) for d in deployed
        })
        await exchange.answer(json.dumps({
            "status": "purged", "removed": {"head_cache": found, "kept_answers": kept},
        }).encode())

    async def _purge_kept(self, purge: Purge, normalisers: Sequence[Callable[[str], str]]) -> int:
        """Record a purge; returns how many kept answers it takes out."""
        if purge.older_than_s is not None:
            return self._store.purge(before=time.time() - purge.older_than_s)
        if purge.query is not None:
            return sum(self._store.purge(text=normalise(purge.query)) for normalise in normalisers)
        assert purge.role is not None
        assert purge.value is not None
        found = 0
        for normalise in normalisers:
            label = (purge.role, normalise(purge.value))
            if label not in self._store.purges.labels:
                self._store.purge(label=label)
                found += await asyncio.to_thread(self._store.count, label, normalise)
        return found


def _said(error: ValidationError) -> str:
    """What is wrong with a body, and where, without the validator's own words before it."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"


async def listen(supervisor: Supervisor, port: int, *, on_port: Callable[[int], None] = lambda _port: None) -> None:
    """Serve the operators' port until cancelled."""
    server = EmbeddedServer(server_config(Admin(supervisor), host=LOOPBACK, port=port))
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

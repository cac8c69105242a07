"""The gateway: an ASGI application between clients and the engine. No torch and no vLLM in this process.

The client's text is data: it is tokenised with special tokens off and can change nothing but its own labels. Of a
request only the token ids of its queries reach the engine; every path but those below is 404.
"""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from engine.interface import EngineUnavailableError
from serving.gateway import cross_origin, openai_api, openapi
from serving.gateway.admission import admit
from serving.gateway.feedback import feedback
from serving.gateway.http_exchange import ClientGoneError, Exchange, HttpError, lifespan
from serving.gateway.labelling import Labelling
from serving.routing.route import RefusedError
from serving.telemetry.logs import LineLog
from serving.telemetry.traces import Traces

_MODEL = "/v1/models/"


@dataclass(slots=True)
class Gateway(Labelling):
    """The ASGI application."""

    _: KW_ONLY
    access: LineLog | None = None
    traces: Traces | None = None
    ready: bool = False

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Answer one request; answer the server's lifespan events; close a websocket."""
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        exchange = Exchange(scope, receive, send)
        if self.settings.cors_origins:
            exchange.common = cross_origin.response_headers(exchange.headers, self.settings.cors_origins)
        path = exchange.path if exchange.path in PATHS else _pattern(exchange.path)
        if path is None:
            await self.respond(exchange, "other", not_found)
            return
        method, handler = PATHS[path]
        if scope["method"] != method and not (method == "GET" and scope["method"] == "HEAD"):
            handler = options if scope["method"] == "OPTIONS" else wrong_method
        await self.respond(exchange, path, handler)

    async def respond(self, exchange: Exchange, path: str, handler: Handler) -> None:
        """Call a handler, answer the errors that it raises, and record the request under `path`."""
        try:
            await handler(self, exchange)
        except HttpError as error:
            if error.status in (401, 429, 503):
                self.metrics.count(self.metrics.refused, exchange.notes.get("refused", error.kind))
            await exchange.answer(error.body(), error.status, headers=error.headers)
        except ClientGoneError:
            exchange.status = 499
        except Exception as error:
            exchange.notes["error"] = "".join(traceback.format_exception(error))[-4_000:]
            if exchange.status:  # the response has begun: it can only be broken off
                raise
            await exchange.answer(HttpError(500, kind="server_error", message="an internal error").body(), 500)
        finally:
            self._record(exchange, path)

    def _record(self, exchange: Exchange, path: str) -> None:
        """Metrics, trace and access log of a request that has ended."""
        seconds = time.perf_counter() - exchange.started
        source = exchange.notes.get("source", "")
        self.metrics.count(self.metrics.requests, path, exchange.status)
        if exchange.status == 200:
            self.metrics.observe(self.metrics.seconds, seconds, path, source)
        if self.traces is not None:
            self.traces.add(
                method=exchange.scope["method"], path=path, status=exchange.status, seconds=seconds,
                request_id=exchange.id.decode(), headers=exchange.headers, notes=exchange.notes,
            )
        if self.access is not None:
            client = exchange.scope.get("client")
            self.access.add({
                "at": round(time.time(), 4), "id": exchange.id.decode(), "from": client[0] if client else None,
                "method": exchange.scope["method"], "path": path, "status": exchange.status,
                "ms": round(1e3 * seconds, 3), **exchange.notes,
            })

    async def models(self, exchange: Exchange) -> None:
        """`GET /v1/models`."""
        with admit(self.callers, exchange):
            await exchange.answer(openai_api.models(self.routes))

    async def model(self, exchange: Exchange) -> None:
        """`GET /v1/models/{id}`."""
        with admit(self.callers, exchange):
            await exchange.answer(openai_api.model(self.routes, exchange.path.removeprefix(_MODEL)))

    async def healthz(self, exchange: Exchange) -> None:
        """`GET /healthz`: this process is alive."""
        await exchange.answer(b'{"status":"ok"}')

    async def readyz(self, exchange: Exchange) -> None:
        """`GET /readyz`: 503 until every engine has answered once; after that 200, `degraded` while one is down.

        A service whose engine is down still answers from its caches: taking it out of the load balancer would lose
        those answers as well.
        """
        choices = self.routes.tasks.values()
        try:
            async with asyncio.timeout(min(5.0, self.settings.request_timeout_s)):
                await asyncio.gather(*(c.active.answer("ready", use_cache=False) for c in choices))
            ok = bool(choices)
        except (RefusedError, EngineUnavailableError, TimeoutError):
            ok = False
        self.ready = self.ready or ok
        status = "ready" if ok else "degraded" if self.ready else "starting"
        bundles = {name: c.active.bundle.id for name, c in self.routes.tasks.items()}
        body = json.dumps({"status": status, "bundles": bundles}).encode()
        await exchange.answer(body, 200 if self.ready else 503, headers={} if self.ready else {"Retry-After": "1"})

    async def prometheus(self, exchange: Exchange) -> None:
        """`GET /metrics`."""
        with admit(self.callers, exchange):
            await exchange.answer(self.metrics.text(), kind=b"text/plain; version=0.0.4; charset=utf-8")

    async def document(self, exchange: Exchange) -> None:
        """`GET /openapi.json`."""
        await exchange.answer(openapi.document(self.settings))


async def not_found(_gateway: Gateway, _exchange: Exchange) -> None:
    """Raise the error for a path that is not in `PATHS`."""
    raise HttpError(404, kind="not_found", message=f"no such path; expected one of {', '.join(PATHS)}")


def _pattern(path: str) -> str | None:
    """The key in `PATHS` of a path that ends in a name."""
    return _MODEL + "{id}" if path.startswith(_MODEL) and path != _MODEL else None


def _allowed(exchange: Exchange) -> str:
    method, _ = PATHS[exchange.path if exchange.path in PATHS else _MODEL + "{id}"]
    return "GET, HEAD, OPTIONS" if method == "GET" else f"{method}, OPTIONS"


async def options(_gateway: Gateway, exchange: Exchange) -> None:
    """`OPTIONS` of any path, no key needed: the methods, and for a browser what a script may send."""
    headers = {"Allow": _allowed(exchange)}
    if any(name == b"access-control-allow-origin" for name, _ in exchange.common):
        headers |= cross_origin.preflight_headers(exchange.headers, headers["Allow"])
    await exchange.answer(b"", headers=headers)


async def wrong_method(_gateway: Gateway, exchange: Exchange) -> None:
    """Raise the error for another method than those in `PATHS`."""
    allowed = _allowed(exchange)
    raise HttpError(
        405, kind="method_not_allowed", message=f"this path takes {allowed}", headers={"Allow": allowed}
    )


Handler = Callable[[Gateway, Exchange], Awaitable[None]]
# A dict, not Starlette's router, which adds 11 % of CPU to a cache hit (benchmarks/gateway_routing.py; 10 % was the
# limit); all of Starlette adds 46 %, FastAPI 149 %.
PATHS: Mapping[str, tuple[str, Handler]] = {
    "/v1/label": ("POST", Gateway.label),
    "/v1/label:batch": ("POST", Gateway.batch),
    "/v1/understand": ("POST", Gateway.understand),
    "/v1/chat/completions": ("POST", Gateway.chat),
    "/v1/feedback": ("POST", feedback),
    "/v1/models": ("GET", Gateway.models),
    _MODEL + "{id}": ("GET", Gateway.model),
    "/healthz": ("GET", Gateway.healthz),
    "/readyz": ("GET", Gateway.readyz),
    "/metrics": ("GET", Gateway.prometheus),
    "/openapi.json": ("GET", Gateway.document),
}

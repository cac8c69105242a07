"""The gateway: HTTP in front, the engine behind. No torch and no vLLM in this process.

The client's text is data: it is tokenised with special tokens off and can change nothing but its own labels.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Self

from fastapi import FastAPI, HTTPException, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.bundle import Bundle
from serving.cache import HeadCache
from serving.client import EngineUnavailableError, StudentClient
from serving.router import Router
from task.tokens import load_tokenizer

_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5)


class LabelRequest(BaseModel):
    """One query, or several."""

    model_config = ConfigDict(extra="forbid")

    query: str | None = Field(None, description="One query")
    queries: list[str] | None = Field(None, description="Several queries")
    use_cache: bool = Field(True, description="False asks the student even when the head cache knows")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.query is None) == (self.queries is None):
            raise ValueError("give either `query` or `queries`")
        for text in self.queries if self.queries is not None else [self.query or ""]:
            try:
                text.encode()
            except UnicodeEncodeError:  # JSON's \\ud800 can smuggle in half a character
                raise ValueError("a query is not valid Unicode") from None
        return self


class LabelOut(BaseModel):
    """One label."""

    role: str
    text: str
    start: Annotated[int | None, Field(description="First character, null for a closed role")]
    end: int | None
    confidence: Annotated[float | None, Field(description="Probability in [0, 1] that the label is right")]


class ResultOut(BaseModel):
    """The labels of one query."""

    query: str
    labels: list[LabelOut]
    source: Annotated[str, Field(description="cache or student")]


class LabelResponse(BaseModel):
    """Results in the order of the request."""

    bundle: str
    results: list[ResultOut]


def make_app(bundle: Bundle, engine_url: str) -> FastAPI:
    """The application; `engine_url` is where the bundle's engine listens."""
    state: dict[str, Any] = {}
    registry = CollectorRegistry()
    answers = Counter("limbeck_answers", "Queries answered", ["source"], registry=registry)
    failures = Counter("limbeck_failures", "Requests refused or failed", ["reason"], registry=registry)
    seconds = Histogram(
        "limbeck_request_seconds", "Seconds per request", ["source"], buckets=_BUCKETS, registry=registry
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tokenizer = load_tokenizer(bundle.model)
        client = StudentClient(engine_url, bundle.model_name, bundle.task, bundle.codec, tokenizer)
        state["client"] = client
        state["router"] = Router(HeadCache(bundle.folder / "cache", bundle.task.normaliser), client)
        yield
        await client.close()

    app = FastAPI(
        title="Limbeck", summary=f"Labels for the task {bundle.task.name}", version=bundle.id, lifespan=lifespan
    )
    limit, most = bundle.task.data.max_query_chars, bundle.task.serving.max_batch

    @app.post("/v1/label", responses={422: {}, 503: {}})
    async def label(request: LabelRequest) -> LabelResponse:
        """Label one query or several."""
        started = time.perf_counter()
        queries = request.queries if request.queries is not None else [request.query or ""]
        if len(queries) > most:
            failures.labels("too many").inc()
            raise HTTPException(422, f"{len(queries)} queries; at most {most} in one request")
        for number, query in enumerate(queries):
            if len(query) > limit:
                failures.labels("too long").inc()
                raise HTTPException(422, f"query {number} has {len(query)} characters; at most {limit}")
        try:
            found = await state["router"].answer(queries, use_cache=request.use_cache)
        except EngineUnavailableError as error:
            failures.labels("engine").inc()
            raise HTTPException(503, f"the student is not available: {error}", {"Retry-After": "1"}) from error
        sources = {a.source for a in found}
        for a in found:
            answers.labels(a.source).inc()
        seconds.labels(sources.pop() if len(sources) == 1 else "mixed").observe(time.perf_counter() - started)
        return LabelResponse(bundle=bundle.id, results=[
            ResultOut(
                query=a.query, source=a.source,
                labels=[
                    LabelOut(role=x.role, text=x.text, start=x.start, end=x.end, confidence=x.confidence)
                    for x in a.labels
                ],
            )
            for a in found
        ])

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """This process answers."""
        return {"status": "ok", "bundle": bundle.id}

    @app.get("/readyz", responses={503: {}})
    async def readyz() -> dict[str, str]:
        """The engine answers too."""
        try:
            async with asyncio.timeout(5):
                await state["client"].label(["ready"])
        except (EngineUnavailableError, TimeoutError) as error:
            raise HTTPException(503, f"the engine is not ready: {error}") from error
        return {"status": "ready", "bundle": bundle.id, "model": bundle.model_name}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus text format."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        """Say what is wrong without repeating the input: it may hold lone surrogates, which are no text."""
        failures.labels("malformed").inc()
        details = [{"loc": list(e["loc"]), "msg": e["msg"], "type": e["type"]} for e in error.errors()]
        return JSONResponse({"detail": jsonable_encoder(details)}, 422)

    return app

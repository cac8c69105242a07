"""The requests for labels: one query, several queries, several tasks about one query, and OpenAI's chat API."""

from __future__ import annotations

import asyncio
import json
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from engine.interface import EngineUnavailableError
from serving.gateway import openai_api
from serving.gateway.admission import Callers, admit, unavailable
from serving.gateway.answer_json import answer_json
from serving.gateway.http_exchange import Exchange, HttpError
from serving.gateway.messages import BatchRequest, ChatRequest, LabelRequest, UnderstandRequest
from serving.gateway.request_body import parsed
from serving.gateway.shadowing import Shadows
from serving.gateway.understanding import Part, Understanding, grouped, part_json, understood
from serving.routing.route import Answer, RefusedError, Route
from serving.routing.streams import stream_all
from serving.routing.task_routes import Choice, Routes
from serving.telemetry.capture_log import CaptureLog
from serving.telemetry.kept_files import KeptFiles
from serving.telemetry.metrics import Metrics
from task.serving_settings import Serving
from task.text import one_line_bytes

_NDJSON = b"application/x-ndjson"


@dataclass(slots=True)
class Labelling:
    """Handlers of these requests: each checks key, body and limits, asks the routes, and answers.

    They raise `HttpError` for what is to be answered with an error.
    """

    routes: Routes
    settings: Serving
    _: KW_ONLY
    metrics: Metrics = field(default_factory=Metrics)
    callers: Callers = field(default_factory=lambda: Callers(None))
    captures: CaptureLog | None = None
    kept: KeptFiles | None = None
    _shadows: Shadows = field(init=False)
    _understanding: Understanding = field(default_factory=Understanding)

    def __post_init__(self) -> None:
        self._shadows = Shadows(
            self.metrics, most=self.settings.max_waiting, timeout_s=self.settings.request_timeout_s
        )

    async def label(self, exchange: Exchange) -> None:
        """`POST /v1/label`."""
        due = exchange.deadline(self.settings.request_timeout_s)
        with admit(self.callers, exchange) as admission:
            request = await parsed(exchange, LabelRequest, limit=self.settings.max_body_bytes, due=due)
            choice = self.choice(request.task)
            self.check_lengths(choice, [request.query])
            admission.charge(1)
            route, answer = await self._answer(exchange, choice, request.query, use_cache=request.use_cache, due=due)
            await exchange.answer(answer_json(answer, route) + b"}")

    async def _answer(
        self, exchange: Exchange, choice: Choice, query: str, *, use_cache: bool, due: float
    ) -> tuple[Route, Answer]:
        """The answer to one query by its deadline; updates metrics and notes."""
        route = choice.pick(query)
        answer = route.known(query) if use_cache else None
        if answer is None:
            try:
                async with asyncio.timeout_at(due):
                    answer = await route.missed(query, keep=use_cache, due=due)
            except (RefusedError, EngineUnavailableError, TimeoutError) as error:
                raise unavailable(exchange, error) from error
            self._shadows.compare(choice, route, answer)
        self._count(route, answer)
        exchange.notes |= {"bundle": route.bundle.id, "source": answer.source, "result": answer.status}
        return route, answer

    def _count(self, route: Route, answer: Answer) -> None:
        """Count an answer that a client is given: in the metrics and in the captures."""
        bundle = route.bundle
        self.metrics.count(self.metrics.answers, bundle.id, answer.source, answer.status)
        if self.captures is not None:
            self.captures.add(
                bundle=bundle.id, task=bundle.task.name, query=answer.query, source=answer.source, status=answer.status,
                probability=answer.probability, labels=answer.labels, keep=route.keep,
            )

    async def batch(self, exchange: Exchange) -> None:
        """`POST /v1/label:batch`: a line for each query, in order of completion."""
        due = exchange.deadline(self.settings.request_timeout_s)
        with admit(self.callers, exchange) as admission:
            request = await parsed(exchange, BatchRequest, limit=self.settings.max_body_bytes, due=due)
            queries = request.queries
            if len(queries) > self.settings.max_batch:
                raise HttpError(
                    400, kind="invalid_request_error", param="queries",
                    message=f"{len(queries)} queries; at most {self.settings.max_batch} in one request",
                )
            choice = self.choice(request.task)
            self.check_lengths(choice, queries)
            admission.charge(len(queries))
            exchange.notes["queries"] = len(queries)
            await exchange.start(200, _NDJSON)
            await self._stream(exchange, choice, request, due)

    async def _stream(self, exchange: Exchange, choice: Choice, request: BatchRequest, due: float) -> None:
        counts: dict[str, int] = {}

        def line(index: int, answer: Answer, route: Route) -> bytes:
            self._count(route, answer)
            counts[answer.source] = counts.get(answer.source, 0) + 1
            return one_line_bytes(answer_json(answer, route)) + b',"index":%d}\n' % index

        misses: dict[Route, dict[str, list[int]]] = {}  # indices of each distinct query
        lines = []
        for index, query in enumerate(request.queries):
            route = choice.pick(query)
            answer = route.known(query) if request.use_cache else None
            if answer is None and not query.strip():
                answer = await route.missed(query)
            if answer is not None:
                lines.append(line(index, answer, route))
            else:
                misses.setdefault(route, {}).setdefault(query, []).append(index)
        if lines:
            await exchange.write(b"".join(lines))
        asked = {route: list(missing) for route, missing in misses.items()}
        async for route, query, outcome in stream_all(asked, due, keep=request.use_cache):
            indices = misses[route][query]
            if isinstance(outcome, Answer):
                self._shadows.compare(choice, route, outcome)
                out = b"".join(line(i, outcome, route) for i in indices)
            else:
                error = unavailable(exchange, outcome)
                self.metrics.count(self.metrics.refused, exchange.notes["refused"])
                problem = error.body()[:-1]
                text = json.dumps(query).encode()
                out = b"".join(problem + b',"query":%s,"index":%d}\n' % (text, i) for i in indices)
            await exchange.write(out)
        exchange.notes["answers"] = counts
        await exchange.write(b"", more=False)

    async def understand(self, exchange: Exchange) -> None:
        """`POST /v1/understand`: what several tasks say about one query."""
        due = exchange.deadline(self.settings.request_timeout_s)
        with admit(self.callers, exchange) as admission:
            request = await parsed(exchange, UnderstandRequest, limit=self.settings.max_body_bytes, due=due)
            choices = {name: self.choice(name) for name in request.tasks or self.routes.tasks}
            if not choices:
                self.choice(None)  # raises: nothing is served yet
            if stray := request.timeout_ms.keys() - choices:
                raise HttpError(
                    422, kind="invalid_request_error", param="timeout_ms",
                    message=f"task {min(stray)!r} is not asked; asked: {', '.join(choices)}",
                )
            for choice in choices.values():
                self.check_lengths(choice, [request.query])
            admission.charge(len(choices))
            parts = self._understanding.parts(
                request.query, choices, use_cache=request.use_cache, due=due,
                limits_s={name: ms / 1e3 for name, ms in request.timeout_ms.items()},
            )
            if request.stream:
                await exchange.start(200, _NDJSON)
                async for part in parts:
                    line = {"query": request.query, **grouped(part), **self._told(exchange, part)}
                    await exchange.write(one_line_bytes(json.dumps(line, ensure_ascii=False).encode()) + b"\n")
                await exchange.write(b"", more=False)
                return
            found = [p async for p in parts]
            failed = [p.outcome for p in found if isinstance(p.outcome, Exception)]
            if len(failed) == len(found):
                raise unavailable(exchange, failed[0])
            await exchange.answer(understood(request.query, found, [self._told(exchange, p) for p in found]))

    def _told(self, exchange: Exchange, part: Part) -> dict[str, Any]:
        """A part in JSON; updates metrics and notes, and compares the answer with that of a bundle on trial."""
        name, problem = part.route.bundle.task.name, None
        if isinstance(part.outcome, Answer):
            self._count(part.route, part.outcome)
            if part.outcome.source in ("student", "teacher"):
                self._shadows.compare(part.choice, part.route, part.outcome)
            result = part.outcome.source
        else:
            problem = unavailable(exchange, part.outcome).problem
            result = exchange.notes.pop("refused")
            self.metrics.count(self.metrics.refused, result)
        exchange.notes.setdefault("parts", {})[name] = result
        return part_json(part, problem)

    async def chat(self, exchange: Exchange) -> None:
        """`POST /v1/chat/completions`: the OpenAI-compatible API."""
        due = exchange.deadline(self.settings.request_timeout_s)
        with admit(self.callers, exchange) as admission:
            request = await parsed(exchange, ChatRequest, limit=self.settings.max_body_bytes, due=due)
            choice = openai_api.choice(self.routes, request.model)
            query = openai_api.query(request)
            self.check_lengths(choice, [query], "messages")
            admission.charge(1)
            route, answer = await self._answer(exchange, choice, query, use_cache=True, due=due)
            if request.stream:
                await exchange.start(200, b"text/event-stream", headers={"Cache-Control": "no-store"})
                usage = request.stream_options is not None and bool(request.stream_options.include_usage)
                body = openai_api.events(exchange.id.decode(), route, answer, usage=usage)
                await exchange.write(body, more=False)
            else:
                await exchange.answer(openai_api.completion(exchange.id.decode(), route, answer))

    def choice(self, task: str | None) -> Choice:
        """The task of a request; raises `HttpError` (400, 404) where none of this name is served."""
        found = self.routes.of(task)
        if found is None:
            names = ", ".join(self.routes.tasks) or "none yet"
            what = "give `task`" if task is None else f"no task {task!r}"
            raise HttpError(
                404 if task else 400, kind="invalid_request_error", message=f"{what}; served: {names}", param="task"
            )
        return found

    @staticmethod
    def check_lengths(choice: Choice, queries: list[str], param: str = "query") -> None:
        """Raise `HttpError` (422) for a query that is too long."""
        limit = choice.active.bundle.task.data.max_query_chars
        for number, query in enumerate(queries):
            if len(query) > limit:
                raise HttpError(
                    422, kind="invalid_request_error", param=param,
                    message=f"query {number} has {len(query)} characters; at most {limit}",
                )

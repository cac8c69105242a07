"""One query to several tasks at once, for `POST /v1/understand`: each task's part comes by a deadline of its own.

A search engine wants the roles of a query's words, its categories and other words for it from one call. They may be
answered by students of different speed: generated text takes many times the forward pass that reads roles, and must
not hold it up.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from engine.interface import EngineUnavailableError
from serving.routing.route import Answer, RefusedError, Route
from serving.routing.task_routes import Choice

# What a role's labels are called in the answer, by the role's kind.
GROUPS: Final = {"open": "labels", "closed": "categories", "text": "rewrites"}


@dataclass(frozen=True, slots=True)
class Part:
    """What one task says about a query.

    Attributes:
        outcome: Its answer; or why there is none, a `TimeoutError` where it was not there by the part's deadline.
        seconds: From the beginning of the request until it was there.
    """

    choice: Choice
    route: Route
    outcome: Answer | RefusedError | EngineUnavailableError | TimeoutError
    seconds: float


class Understanding:
    """Asks several tasks about a query.

    A part that is not there by its deadline is left out of the answer. Its student goes on, and what it answers is kept
    like every other answer (`serving.write_back`), so that a later request finds it.
    """

    def __init__(self) -> None:
        self._asked: set[asyncio.Task[Answer]] = set()

    async def parts(
        self, query: str, choices: Mapping[str, Choice], *, limits_s: Mapping[str, float], use_cache: bool, due: float
    ) -> AsyncIterator[Part]:
        """The part of each task, in order of completion.

        Args:
            choices: The tasks by name.
            limits_s: Seconds that a task may take; a task without one has its own `serving.request_timeout_s`.
            use_cache: Whether cached answers count, and new ones are kept.
            due: The deadline of the whole request, in the loop's time.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def part(name: str, choice: Choice) -> Part:
            route = choice.pick(query)
            limit = limits_s.get(name, route.timeout_s)
            outcome = await self._outcome(route, query, use_cache=use_cache, due=min(due, began + limit))
            return Part(choice, route, outcome, loop.time() - began)

        for finished in asyncio.as_completed([part(n, c) for n, c in choices.items()]):
            yield await finished

    async def _outcome(
        self, route: Route, query: str, *, use_cache: bool, due: float
    ) -> Answer | RefusedError | EngineUnavailableError | TimeoutError:
        known = route.known(query) if use_cache else None
        if known is not None:
            return known
        asked = asyncio.get_running_loop().create_task(route.missed(query, keep=use_cache, due=due))
        self._asked.add(asked)
        asked.add_done_callback(self._ended)
        done, _ = await asyncio.wait({asked}, timeout=max(0.0, due - asyncio.get_running_loop().time()))
        if not done:
            return TimeoutError()
        failure = asked.exception()
        if failure is None:
            return asked.result()
        if isinstance(failure, (RefusedError, EngineUnavailableError, TimeoutError)):
            return failure
        raise failure

    def _ended(self, task: asyncio.Task[Answer]) -> None:
        """Forget a task; its error is retrieved, because nobody may be waiting for it any more."""
        self._asked.discard(task)
        if not task.cancelled():
            task.exception()


def understood(query: str, parts: Sequence[Part], told: Sequence[Mapping[str, Any]]) -> bytes:
    """The response to a request that is not streamed.

    Args:
        told: `part_json` of each part.
    """
    groups: dict[str, list[dict[str, Any]]] = {name: [] for name in GROUPS.values()}
    for part in parts:
        for name, found in grouped(part).items():
            groups[name] += found
    return json.dumps({"query": query, **groups, "parts": told}, ensure_ascii=False).encode()


def part_json(part: Part, problem: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a response says of a part, beside its labels.

    Args:
        problem: The error to show where the part has no answer.
    """
    answer = part.outcome if isinstance(part.outcome, Answer) else None
    failed = "late" if isinstance(part.outcome, TimeoutError) else "failed"
    return {
        "task": part.route.bundle.task.name, "bundle": part.route.bundle.id,
        "status": failed if answer is None else answer.status,
        "fault": None if answer is None else answer.fault, "source": None if answer is None else answer.source,
        "probability": None if answer is None else answer.probability, "ms": round(1e3 * part.seconds, 2),
        "error": problem,
    }


def grouped(part: Part) -> dict[str, list[dict[str, Any]]]:
    """A part's labels by the kind of their roles, each with its task; none where there is no answer."""
    groups: dict[str, list[dict[str, Any]]] = {name: [] for name in GROUPS.values()}
    if isinstance(part.outcome, Answer):
        task = part.route.bundle.task
        kinds = {r.name: r.kind for r in task.roles}
        for label in json.loads(part.outcome.labels):
            groups[GROUPS[kinds[label["role"]]]].append({**label, "task": task.name})
    return groups

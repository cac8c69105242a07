"""Comparisons of a bundle on trial with the one that answers; clients do not wait for them."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from engine.interface import EngineUnavailableError
from serving.routing.route import Answer, RefusedError, Route
from serving.routing.task_routes import Choice
from serving.telemetry.metrics import Metrics


class Shadows:
    """The comparisons that are under way, at most `most` at a time; more are left out."""

    def __init__(self, metrics: Metrics, *, most: int, timeout_s: float) -> None:
        self._metrics, self._most, self._timeout_s = metrics, most, timeout_s
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def compare(self, choice: Choice, route: Route, answer: Answer) -> None:
        """Ask the bundle on trial as well, if the choice says so, and count whether it agrees with the answer."""
        trial = choice.shadowed(answer.query, route)
        if trial is None or len(self) >= self._most:
            return
        task = asyncio.get_running_loop().create_task(self._compare(trial, answer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _compare(self, trial: Route, answer: Answer) -> None:
        result = "failed"
        with suppress(RefusedError, EngineUnavailableError, TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                other = await trial.answer(answer.query, use_cache=False)
            same = {x.key for x in other.decoded()} == {x.key for x in answer.decoded()}
            result = "invalid" if other.fault else "same" if same else "different"
        self._metrics.count(self._metrics.shadowed, trial.bundle.id, result)

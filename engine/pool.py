"""The engines of a service: models with the same weights share one, whatever their tasks, caches and adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.kind import kind_name
from engine.servable import Servable, StartupQueries
from engine.watchdog import HostedModel, Watchdog
from task.forms import is_token_classifier
from task.serving_settings import Serving
from task.settings import EngineSettings

_Key = tuple[str, bool, str]


@dataclass(frozen=True, slots=True)
class Placement:
    """A model and the watchdog of the engine that hosts it."""

    watchdog: Watchdog
    hosted: HostedModel

    async def wait_ready(self) -> None:
        """Wait until the model has passed its check; raises `EngineError` if it never can."""
        await asyncio.shield(self.hosted.ready)

    @property
    def checked(self) -> bool:
        """Whether clients may ask it: it has passed its check since the engine was last started."""
        return self.watchdog.is_checked(self.hosted)


class EnginePool:
    """The watchdogs, keyed by model and engine settings; belongs to one event loop."""

    def __init__(
        self, logs: Path, *, answered: Callable[[str], int], waiting: Callable[[str], int], report: Callable[..., None]
    ) -> None:
        """Make an empty pool.

        Args:
            logs: The folder of the engines' logs.
            answered: How many queries a servable, by its id, has answered so far.
            waiting: How many of its queries wait for an answer.
            report: Called with what happens to an engine and, as `failed`, whether it is a failure.
        """
        self._logs, self._answered, self._waiting, self._report = logs, answered, waiting, report
        self._running: dict[_Key, tuple[Watchdog, asyncio.Task[None]]] = {}

    def place(self, servable: Servable, settings: Serving, queries: StartupQueries) -> Placement:
        """Host a model on the engine that runs its weights, which is started where there is none."""
        key = _key(servable, settings)
        found = self._running.get(key)
        if found is None or found[1].done():
            log = self._logs / f"engine-{servable.engine_name.rpartition('@')[2]}.log"
            watchdog = Watchdog(
                settings=settings, log=log, answered=self._answered, waiting=self._waiting, report=self._report
            )
            hosted = watchdog.add(servable, queries)
            self._running[key] = watchdog, asyncio.create_task(watchdog.run())
        else:
            watchdog = found[0]
            hosted = watchdog.add(servable, queries)
        return Placement(watchdog, hosted)

    async def remove(self, placement: Placement) -> None:
        """Take a model away; the engine ends with its last one."""
        placement.watchdog.remove(placement.hosted)
        if placement.watchdog.hosted:
            return
        for key, (watchdog, task) in list(self._running.items()):
            if watchdog is placement.watchdog:
                del self._running[key]
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """End all engines."""
        tasks = [task for _, task in self._running.values()]
        self._running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _key(servable: Servable, settings: Serving) -> _Key:
    """What two models must have in common to share an engine."""
    same = EngineSettings.model_validate(settings.model_dump(include=set(EngineSettings.model_fields)))
    adapters = settings.adapters.model_dump_json() if servable.adapter is not None else ""
    pooled = is_token_classifier(servable.runs_as)
    kind = kind_name(servable, settings)
    return servable.engine_name, pooled, same.model_dump_json() + kind + settings.quantization + adapters

"""The engines of a service: bundles with the same model share one, whatever their tasks, caches and adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from engine.watchdog import Keeper, Tenant
from serving.release.bundle import Bundle
from serving.supervisor.state import StateFolder
from task.forms import is_token_classifier
from task.serving_settings import Serving
from task.settings import EngineSettings

_Key = tuple[str, bool, str]


@dataclass(frozen=True, slots=True)
class Placed:
    """A bundle and the engine that serves it."""

    keeper: Keeper
    tenant: Tenant

    async def settled(self) -> None:
        """Wait until it answers; raises `EngineError` where it never will."""
        await asyncio.shield(self.tenant.settled)

    @property
    def checked(self) -> bool:
        """Whether it may be asked: it has answered rightly since it was last started."""
        return self.keeper.serves(self.tenant)


class Engines:
    """Keepers by what they run; belongs to one event loop."""

    def __init__(
        self, state: StateFolder, answered: Callable[[str], int], waiting: Callable[[str], int]
    ) -> None:
        """Prepare.

        Args:
            answered: How many queries the student of a bundle has answered so far.
            waiting: How many wait for it.
        """
        self._state, self._answered, self._waiting = state, answered, waiting
        self._running: dict[_Key, tuple[Keeper, asyncio.Task[None]]] = {}

    def place(self, bundle: Bundle, settings: Serving) -> Placed:
        """Bring a bundle to the engine that runs its model, started where there is none."""
        key = _key(bundle, settings)
        found = self._running.get(key)
        if found is None or found[1].done():
            log = self._state.path / f"engine-{bundle.engine_name.rpartition('@')[2]}.log"
            keeper = Keeper(settings, log, self._answered, self._waiting)
            tenant = keeper.admit(bundle)
            self._running[key] = keeper, asyncio.create_task(keeper.run())
        else:
            keeper = found[0]
            tenant = keeper.admit(bundle)
        return Placed(keeper, tenant)

    async def leave(self, placed: Placed) -> None:
        """Take a bundle away; the engine ends with the last one."""
        placed.keeper.dismiss(placed.tenant)
        if placed.keeper.tenants:
            return
        for key, (keeper, task) in list(self._running.items()):
            if keeper is placed.keeper:
                del self._running[key]
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """End all of them."""
        tasks = [task for _, task in self._running.values()]
        self._running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def keepers(self) -> list[Keeper]:
        """All that run."""
        return [keeper for keeper, _ in self._running.values()]


def _key(bundle: Bundle, settings: Serving) -> _Key:
    """What two bundles must have in common to share an engine."""
    same = EngineSettings.model_validate(settings.model_dump(include=set(EngineSettings.model_fields)))
    adapters = settings.adapters.model_dump_json() if bundle.adapter is not None else ""
    pooled = is_token_classifier(bundle.runs_as)
    return bundle.engine_name, pooled, same.model_dump_json() + settings.quantization + adapters

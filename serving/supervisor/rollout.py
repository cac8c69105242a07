"""What one task is served with: a bundle, and the change to the next one without a failed request.

Follows a release pointer: the new bundle is verified, placed on an engine, warmed up, tried if that is wanted, and
takes over in all workers; the one before finishes what it has begun and keeps its engine for a while, for a rollback.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engine.pool import Engines, Placed
from engine.process import EngineError
from serving.release.bundle import Bundle, copy_small, open_bundle
from serving.release.pointer import Pointer, Release, read_pointer
from serving.supervisor.state import StateFolder, WantedRoute
from serving.supervisor.worker_pool import LOOK_S, Crew
from task.errors import InputError
from task.serving_settings import Change, Serving


@dataclass(frozen=True, slots=True)
class Deployed:
    """A bundle that has an engine, and the copy of its small files that the workers read."""

    bundle: Bundle
    copy: Path
    placed: Placed
    settings: Serving

    def route(self, role: Any, canary: float = 0.0, shadow: float = 0.0) -> WantedRoute:
        """What workers are told of it."""
        return WantedRoute(
            folder=self.copy, engine=self.placed.keeper.url, role=role, canary=canary, shadow=shadow,
            settings=self.settings, checked=self.placed.checked,
        )

    def status(self) -> dict[str, Any]:
        """What operators see of it."""
        k = self.placed.keeper
        return {
            "bundle": self.bundle.id, "folder": str(self.bundle.folder), "model": self.bundle.model_name,
            "engine": k.state, "pid": k.pid, "restarts": k.restarts, "log": str(k.log), "why": k.why or None,
        }


@dataclass(frozen=True, slots=True)
class House:
    """What lines share."""

    state: StateFolder
    engines: Engines
    crew: Crew
    override: Callable[[Serving], Serving]
    tell: Callable[..., None]


class Line:
    """One task's bundles; belongs to one event loop."""

    def __init__(self, source: Path, first: Bundle, house: House) -> None:
        """Prepare to serve.

        Args:
            source: A bundle, or a release pointer that is followed.
            first: The bundle, or what it points to, opened.
        """
        self.source, self.task = source, first.task.name
        self.active: Deployed | None = None
        self.trial: Deployed | None = None
        self.kept: Deployed | None = None
        self._first, self._house = first, house
        self._keep_until = 0.0
        self._beside: tuple[Callable[[], WantedRoute], ...] = ()
        self._told: tuple[WantedRoute, ...] = ()

    async def open(self) -> None:
        """Put the first bundle into service; its cache answers at once, its student once it has been checked.

        Raises:
            EngineError: Its engine did not start.
        """
        self.active = self._deploy(self._first)
        self._want()
        await self.active.placed.settled()
        self.publish()
        await self._house.crew.agreed()
        self._house.tell(f"serving {self.active.bundle.id}")

    async def follow(self) -> None:
        """Follow the pointer, and end the engine of the bundle before when its time is over."""
        seen = None
        while True:
            if self.source.is_file():
                with contextlib.suppress(OSError):
                    stamp = self.source.stat().st_mtime_ns
                    if stamp != seen:
                        seen = stamp
                        await self._change_to_pointer()
            if self.kept is not None and time.monotonic() >= self._keep_until:
                gone, self.kept = self.kept, None
                await self._retire(gone)
                self._house.tell(f"{gone.bundle.id} has left its engine")
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        """Take the task out of service; what has begun is finished first."""
        deployed = [d for d in (self.trial, self.kept, self.active) if d is not None]
        self.active = self.trial = self.kept = None
        self._house.crew.want(str(self.source), ())
        await self._house.crew.agreed()
        for one in deployed:
            await self._drained(one)
            await self._retire(one)

    def publish(self) -> None:
        """Tell the workers what to serve, where that has changed: an engine that died may not be asked any more."""
        if self.active is None:
            return
        routes = self.active.route("active"), *(route() for route in self._beside)
        if routes != self._told:
            self._house.crew.want(str(self.source), routes)
            self._told = routes

    def heal_copies(self) -> None:
        """A worker may have died of a copy that somebody cut short: mapped memory without a file behind it kills."""
        for deployed in filter(None, (self.active, self.trial)):
            bundle, copy = deployed.bundle, deployed.copy
            with contextlib.suppress(OSError, InputError):  # the bundle is damaged as well: what is left must do
                if any(_size(copy / name) != _size(bundle.folder / name) for name in bundle.small_files):
                    copy_small(bundle, copy)

    def status(self) -> dict[str, Any]:
        """What operators see of it; `asked` is whether the workers may ask the active bundle's student."""
        return {
            name: None if deployed is None else deployed.status()
            for name, deployed in (("active", self.active), ("trial", self.trial), ("kept", self.kept))
        } | {"asked": bool(self._told) and self._told[0].checked}

    # -- a change -------------------------------------------------------------------------------------------------

    def _deploy(self, bundle: Bundle) -> Deployed:
        copy = copy_small(bundle, self._house.state.copy_of(bundle.id))
        settings = self._house.override(bundle.task.serving)
        return Deployed(bundle, copy, self._house.engines.place(bundle, settings), settings)

    def _want(self, *beside: Callable[[], WantedRoute]) -> None:
        """Let the active bundle be served, and others beside it."""
        self._beside = beside
        self.publish()

    async def _change_to_pointer(self) -> None:
        assert self.active is not None
        try:
            pointer = read_pointer(self.source)
            if pointer.current.id != self.active.bundle.id:
                await self._change(pointer)
        except (InputError, EngineError, OSError) as error:
            self._house.tell(f"not changed: {error}", failed=True)
            if self.trial is not None:
                gone, self.trial = self.trial, None
                self._want()
                await self._retire(gone)

    async def _change(self, pointer: Pointer) -> None:
        """Start the new bundle beside the old one, try it, switch."""
        change, started = pointer.change, time.monotonic()
        self._house.tell(f"changing to {pointer.current.id}")
        if self.kept is not None and self.kept.bundle.id == pointer.current.id:
            self.trial, self.kept = self.kept, None
        else:
            self.trial = await self._started(pointer.current)
        for what, share, seconds in (
            ("shadow", change.shadow, change.shadow_s), ("canary", change.canary, change.canary_s)
        ):
            if share and seconds:
                self._want(partial(self.trial.route, "trial", **{what: share}))
                self._house.tell(f"{what} of {share:.0%} for {seconds:g} s")
                await self._stays(pointer, seconds)
        await self._stays(pointer, 0.0)
        await self._switch(change)
        self._house.tell(f"serving {pointer.current.id} after {time.monotonic() - started:.1f} s")

    async def _started(self, release: Release) -> Deployed:
        """A verified bundle whose engine answers and has been warmed up."""
        bundle = await asyncio.to_thread(open_bundle, release.bundle)
        if bundle.id != release.id:
            raise InputError(
                "another bundle stands there than was released", file=release.bundle, found=bundle.id,
                expected=release.id,
            )
        if bundle.task.name != self.task:
            raise InputError(
                "a bundle of another task", file=self.source, found=bundle.task.name, expected=self.task,
                fix="Give each task a pointer of its own",
            )
        deployed = self._deploy(bundle)
        try:
            await deployed.placed.settled()
        except BaseException:
            await self._retire(deployed)
            raise
        return deployed

    async def _switch(self, change: Change) -> None:
        """All workers answer with the new bundle; the old one's requests are finished first, its engine kept a while.

        Workers open the new bundle before they take it into service, so both are open for a moment in each.
        """
        assert self.active is not None
        assert self.trial is not None
        crew = self._house.crew
        self._want(partial(self.trial.route, "trial"))  # opened everywhere: the switch itself is an assignment
        if not await crew.agreed():
            raise EngineError("not all workers have opened the new bundle")
        old, self.active, self.trial = self.active, self.trial, None
        self._want(partial(old.route, "leaving"))
        await crew.agreed()
        await self._drained(old)
        self._want()
        await crew.agreed()
        if self.kept is not None:
            await self._retire(self.kept)
        self.kept, self._keep_until = old, time.monotonic() + change.keep_s

    async def _drained(self, deployed: Deployed) -> None:
        """Wait until nobody waits for its student any more, or could still."""
        patience = time.monotonic() + deployed.settings.request_timeout_s
        while time.monotonic() < patience and self._house.crew.waiting(deployed.bundle.id):
            await asyncio.sleep(LOOK_S)

    async def _stays(self, pointer: Pointer, seconds: float) -> None:
        """Wait for so long; raises `InputError` as soon as the pointer points elsewhere."""
        found, until = "", time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, InputError):
                found = read_pointer(self.source).current.id
                if found != pointer.current.id:
                    break
            if time.monotonic() >= until:
                return
            await asyncio.sleep(LOOK_S)
        raise InputError("the pointer points elsewhere now", file=self.source, found=found)

    async def _retire(self, deployed: Deployed) -> None:
        await self._house.engines.leave(deployed.placed)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None

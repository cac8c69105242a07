"""The bundle that a task is served with, and the change to the next one without a failed request.

Follows a release pointer: the new bundle is verified, placed on an engine, warmed up, tried by shadow and canary if the
pointer asks for that, and takes over in all workers; the previous one finishes its requests in flight and keeps its
engine for a while, for a rollback.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engine.interface import EngineError
from engine.kind import kind_name
from engine.pool import EnginePool, Placement
from serving.release.bundle import Bundle, copy_small, gate_failure
from serving.release.kept_bundles import hold
from serving.release.pointer import Pointer, Release, open_released, read_pointer
from serving.release.startup_queries import startup_queries
from serving.routing.live_teacher import check_environment
from serving.supervisor.state import DesiredRoute, StateFolder
from serving.supervisor.worker_pool import POLL_S, WorkerPool
from serving.telemetry.metrics import EngineState
from task.errors import InputError
from task.serving_settings import Change, Serving


@dataclass(frozen=True, slots=True)
class Deployed:
    """A bundle that has an engine, and the copy of its small files that the workers read.

    Attributes:
        held: Keeps the bundle on disk for as long as its engine may have to start again.
    """

    bundle: Bundle
    copy: Path
    placement: Placement
    settings: Serving
    held: int

    def route(self, role: Any, *, canary: float = 0.0, shadow: float = 0.0) -> DesiredRoute:
        """The route that workers are to serve it with."""
        return DesiredRoute(
            folder=self.copy, engine=self.placement.watchdog.url, role=role, canary=canary, shadow=shadow,
            settings=self.settings, checked=self.placement.checked, restarts=self.placement.watchdog.restarts,
        )

    def status(self) -> dict[str, Any]:
        """What `/status` shows of it."""
        w = self.placement.watchdog
        return {
            "bundle": self.bundle.id, "folder": str(self.bundle.folder), "model": self.bundle.model_name,
            "runs_on": kind_name(self.bundle, self.settings), "engine": w.state, "pid": w.pid,
            "restarts": w.restarts, "log": str(w.log),
            "why": (w.last_error or None) if w.state != "ready" else None,
            "gate": gate_failure(self.bundle) or "passed",
        }


@dataclass(frozen=True, slots=True)
class RolloutContext:
    """What the rollouts of a service share.

    Attributes:
        override: What the operator sets in place of a bundle's settings.
        report: Called with what happens and, as `failed`, whether it is a failure.
    """

    state: StateFolder
    engines: EnginePool
    workers: WorkerPool
    override: Callable[[Serving], Serving]
    report: Callable[..., None]


class Rollout:
    """One task's bundles; belongs to one event loop."""

    def __init__(self, source: Path, first: Bundle, context: RolloutContext) -> None:
        """Prepare to serve.

        Args:
            source: A bundle, or a release pointer that is followed.
            first: The bundle, or what it points to, opened.
        """
        self.source, self.task = source, first.task.name
        self.active: Deployed | None = None
        self.trial: Deployed | None = None
        self.kept: Deployed | None = None
        self._first, self._context = first, context
        self._keep_until = 0.0
        self._others: tuple[Callable[[], DesiredRoute], ...] = ()
        self._published: tuple[DesiredRoute, ...] = ()

    async def open(self) -> None:
        """Serve the first bundle; its cache answers at once, its student once it has been checked.

        Raises:
            EngineError: Its engine did not start.
            InputError: The environment has a key or a proxy for its teacher that cannot be used.
        """
        self.active = self._deploy(self._first)
        self._set_routes()
        await self.active.placement.wait_ready()
        self.publish()
        await self._context.workers.all_current()
        self._context.report(f"serving {self.active.bundle.id}")

    async def follow(self) -> None:
        """Follow the pointer, and release the previous bundle's engine when its time is over."""
        seen = None
        while True:
            if self.source.is_file():
                with contextlib.suppress(OSError):
                    stamp = self.source.stat().st_mtime_ns
                    if stamp != seen:
                        seen = stamp
                        await self._change_to_pointer()
            if self.kept is not None and time.monotonic() >= self._keep_until:
                previous, self.kept = self.kept, None
                await self._retire(previous)
                self._context.report(f"{previous.bundle.id} is no longer hosted by an engine")
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        """Take the task out of service; requests in flight are finished first."""
        deployed = [d for d in (self.trial, self.kept, self.active) if d is not None]
        self.active = self.trial = self.kept = None
        self._context.workers.set_routes(str(self.source), ())
        await self._context.workers.all_current()
        for one in deployed:
            await self._drained(one)
            await self._retire(one)

    def publish(self) -> None:
        """Write the workers' routes where they have changed: an engine that died must not be asked any more."""
        if self.active is None:
            return
        routes = self.active.route("active"), *(route() for route in self._others)
        if routes != self._published:
            self._context.workers.set_routes(str(self.source), routes)
            self._published = routes

    def engines(self) -> list[EngineState]:
        """The engines of the bundles that workers serve or try."""
        return [route.engine_state() for route in self._published]

    def restore_copies(self) -> None:
        """Copy files again whose size has changed: a mapped file that was truncated kills a worker (SIGBUS)."""
        for deployed in filter(None, (self.active, self.trial)):
            bundle, copy = deployed.bundle, deployed.copy
            with contextlib.suppress(OSError, InputError):  # the bundle is damaged as well: the copy stays as it is
                if any(_size(copy / name) != _size(bundle.folder / name) for name in bundle.small_files):
                    copy_small(bundle, copy)

    def status(self) -> dict[str, Any]:
        """What `/status` shows of it; `asked` is whether the workers may ask the active bundle's student."""
        return {
            name: None if deployed is None else deployed.status()
            for name, deployed in (("active", self.active), ("trial", self.trial), ("kept", self.kept))
        } | {"asked": bool(self._published) and self._published[0].checked}

    # -- a change -------------------------------------------------------------------------------------------------

    def _deploy(self, bundle: Bundle) -> Deployed:
        settings = self._context.override(bundle.task.serving)
        check_environment(settings.consult)
        reason = gate_failure(bundle)
        if reason is not None:
            self._context.report(f"bundle {bundle.id} is served without having passed its gate: {reason}")
        copy = copy_small(bundle, self._context.state.copy_of(bundle.id))
        held = hold(bundle.folder)
        placement = self._context.engines.place(bundle, settings, startup_queries(bundle))
        return Deployed(bundle, copy, placement, settings, held)

    def _set_routes(self, *others: Callable[[], DesiredRoute]) -> None:
        """Serve the active bundle, and others beside it."""
        self._others = others
        self.publish()

    async def _change_to_pointer(self) -> None:
        assert self.active is not None
        try:
            pointer = read_pointer(self.source)
            if pointer.current.id != self.active.bundle.id:
                await self._change(pointer)
        except (InputError, EngineError, OSError) as error:
            self._context.report(f"not changed: {error}", failed=True)
            if self.trial is not None:
                failed, self.trial = self.trial, None
                self._set_routes()
                await self._retire(failed)

    async def _change(self, pointer: Pointer) -> None:
        """Start the new bundle beside the old one, try it, switch."""
        change, started = pointer.change, time.monotonic()
        self._context.report(f"changing to {pointer.current.id}")
        if self.kept is not None and self.kept.bundle.id == pointer.current.id:
            self.trial, self.kept = self.kept, None
        else:
            self.trial = await self._started(pointer.current)
        for phase, share, seconds in (
            ("shadow", change.shadow, change.shadow_s), ("canary", change.canary, change.canary_s)
        ):
            if share and seconds:
                self._set_routes(partial(self.trial.route, "trial", **{phase: share}))
                self._context.report(f"{phase} of {share:.0%} for {seconds:g} s")
                await self._wait_unchanged(pointer, seconds)
        await self._wait_unchanged(pointer, 0.0)
        await self._switch(change)
        self._context.report(f"serving {pointer.current.id} after {time.monotonic() - started:.1f} s")

    async def _started(self, release: Release) -> Deployed:
        """A verified bundle whose engine answers and has been warmed up."""
        bundle = await asyncio.to_thread(open_released, release)
        if bundle.task.name != self.task:
            raise InputError(
                "a bundle of another task", file=self.source, found=bundle.task.name, expected=self.task,
                fix="Give each task a pointer of its own",
            )
        deployed = self._deploy(bundle)
        try:
            await deployed.placement.wait_ready()
        except BaseException:
            await self._retire(deployed)
            raise
        return deployed

    async def _switch(self, change: Change) -> None:
        """Let all workers answer with the new bundle; the old one's requests are finished, its engine is kept a while.

        Workers open the new bundle before they take it into service, so both are open for a moment in each.
        """
        assert self.active is not None
        assert self.trial is not None
        workers = self._context.workers
        # Opened in all workers before it answers, so that the switch itself is only an assignment.
        self._set_routes(partial(self.trial.route, "trial"))
        if not await workers.all_current():
            raise EngineError("not all workers have opened the new bundle")
        old, self.active, self.trial = self.active, self.trial, None
        self._set_routes(partial(old.route, "leaving"))
        await workers.all_current()
        await self._drained(old)
        self._set_routes()
        await workers.all_current()
        if self.kept is not None:
            await self._retire(self.kept)
        self.kept, self._keep_until = old, time.monotonic() + change.keep_s

    async def _drained(self, deployed: Deployed) -> None:
        """Wait until no request waits for the bundle's student, at most for the time-out of a request."""
        until = time.monotonic() + deployed.settings.request_timeout_s
        while time.monotonic() < until and self._context.workers.waiting(deployed.bundle.id):
            await asyncio.sleep(POLL_S)

    async def _wait_unchanged(self, pointer: Pointer, seconds: float) -> None:
        """Wait; raises `InputError` as soon as the pointer points to another bundle."""
        found, until = "", time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, InputError):
                found = read_pointer(self.source).current.id
                if found != pointer.current.id:
                    break
            if time.monotonic() >= until:
                return
            await asyncio.sleep(POLL_S)
        raise InputError("the pointer points to another bundle now", file=self.source, found=found)

    async def _retire(self, deployed: Deployed) -> None:
        await self._context.engines.remove(deployed.placement)
        os.close(deployed.held)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None

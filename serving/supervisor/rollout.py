"""The bundle that a task is served with, and the change to the next one without a failed request.

Follows a release pointer: the new bundle is verified, placed on an engine, warmed up, tried by shadow and canary if the
pointer asks for that, and takes over in all workers; the previous one finishes its requests in flight and keeps its
engine for a while, for a rollback.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from engine.interface import EngineError
from serving.release.bundle import Bundle, copy_small, gate_failure
from serving.release.kept_bundles import hold
from serving.release.pointer import Pointer, Refused, Release, open_released, read_pointer, refuse
from serving.release.startup_queries import startup_queries
from serving.release.verdict import in_words, overridden
from serving.routing.live_teacher import check_environment
from serving.supervisor.canary import Harm
from serving.supervisor.comparison import Comparison, PointerChangedError, unchanged
from serving.supervisor.context import RolloutContext
from serving.supervisor.deployed import Deployed
from serving.supervisor.state import DesiredRoute
from serving.supervisor.worker_pool import POLL_S
from serving.telemetry.metrics import EngineState
from serving.telemetry.refusal_counts import count_refusal
from task.errors import InputError
from task.serving_settings import Change

_LEAVE_S = 5.0  # for workers to send a trial no more queries; one that has ended meanwhile does not hold it up


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
        self.refused: Refused | None = None
        self._since: str | None = None
        self._first, self._context = first, context
        self._keep_until = 0.0
        self._others: tuple[Callable[[], DesiredRoute], ...] = ()
        self._published: tuple[DesiredRoute, ...] = ()
        self._comparison: Comparison | None = None

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
        self._since = _now()
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
        tally = self._comparison.tally if self._comparison is not None else ""
        routes = tuple(
            route.model_copy(update={"tally": tally})
            for route in (self.active.route("active"), *(route() for route in self._others))
        )
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
        """What `/status` shows of it.

        `asked` is whether the workers may ask the active bundle's student, `since` from when on it answers, and
        `canary` and `shadow` are the shares of queries that the one on trial answers and is only compared on.
        """
        tried = next((r for r in self._published if r.role == "trial"), None)
        return {
            name: None if deployed is None else deployed.status()
            for name, deployed in (("active", self.active), ("trial", self.trial), ("kept", self.kept))
        } | {
            "asked": bool(self._published) and self._published[0].checked, "since": self._since,
            "canary": tried.canary if tried else 0.0, "shadow": tried.shadow if tried else 0.0,
            "refused": None if self.refused is None else self.refused.model_dump(mode="json"),
        }

    # -- a change -------------------------------------------------------------------------------------------------

    def _deploy(self, bundle: Bundle) -> Deployed:
        settings = self._context.override(bundle.task.serving)
        check_environment(settings.consult)
        reason = gate_failure(bundle)
        if reason is not None:
            self._context.report(f"bundle {bundle.id} is served without having passed its gate: {reason}")
        elif changed := overridden(bundle):
            self._context.report(f"bundle {bundle.id} is served; it passed its gate with {in_words(changed)}")
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
            self.refused = pointer.refused
            if pointer.current.id != self.active.bundle.id:
                await self._change(pointer)
        except (InputError, EngineError, OSError) as error:
            self._context.report(f"not changed: {error}", failed=True)
            await self._withdraw()
        finally:
            self._comparison = None

    async def _change(self, pointer: Pointer) -> None:
        """Start the new bundle beside the old one, try it, switch."""
        assert self.active is not None
        change, started = pointer.change, time.monotonic()
        self._context.report(f"changing to {pointer.current.id}")
        if self.kept is not None and self.kept.bundle.id == pointer.current.id:
            self.trial, self.kept = self.kept, None
        else:
            self.trial = await self._started(pointer.current)
        if change.shadow and change.shadow_s:
            self._set_routes(partial(self.trial.route, "trial", shadow=change.shadow))
            self._context.report(f"shadow of {change.shadow:.0%} for {change.shadow_s:g} s")
            await unchanged(self.source, pointer, change.shadow_s)
        comparison = self._comparison = Comparison(
            change.bounds, released=self.active.bundle.id, new=pointer.current.id, state=self._context.state,
            workers=self._context.workers,
        )
        try:
            harm = await self._canary(pointer, comparison)
            if harm is None:
                await unchanged(self.source, pointer, 0.0)
                await self._switch(change.keep_s)
                self._context.report(f"serving {pointer.current.id} after {time.monotonic() - started:.1f} s")
                harm = await self._watch(pointer, comparison)
        finally:
            comparison.end()
        if harm is not None:
            await self._refuse(pointer.current.id, harm)

    async def _canary(self, pointer: Pointer, comparison: Comparison) -> Harm | None:
        """Let the trial answer a share of the queries; returns the bound that it left, None where it left none."""
        assert self.trial is not None
        change = pointer.change
        if not (change.canary and change.canary_s):
            return None
        counted = self._count(change, comparison)
        self._set_routes(partial(self.trial.route, "trial", canary=change.canary))
        self._context.report(f"canary of {change.canary:.0%} for {change.canary_s:g} s")
        harm = await unchanged(self.source, pointer, change.canary_s, comparison if counted else None)
        comparison.keep_released()
        comparison.end()
        if counted and harm is None:
            self._context.report(f"canary of {pointer.current.id}: {comparison.outcome()}")
        return harm

    async def _watch(self, pointer: Pointer, comparison: Comparison) -> Harm | None:
        """Compare what has taken over with what the bundle before it did during the canary.

        Counted anew as often as the canary's time has passed: distinct queries of a longer time are rarer ones, which
        students know less well, so that only equal times can be compared.
        """
        change, left = pointer.change, pointer.change.watch_s
        while left > 0 and self._count(change, comparison):
            self.publish()
            seconds = min(left, change.canary_s)
            try:
                harm = await unchanged(self.source, pointer, seconds, comparison)
            except PointerChangedError:  # which is followed next
                return None
            if harm is not None:
                return harm
            left -= seconds
        if change.watch_s and not left:
            self._context.report(f"watched {pointer.current.id} for {change.watch_s:g} s: {comparison.outcome()}")
        return None

    def _count(self, change: Change, comparison: Comparison) -> bool:
        """Begin a counting; returns whether there is anything to judge and anywhere to count it."""
        if not change.bounds.judged:
            return False
        try:
            comparison.begin()
        except OSError as error:
            self._context.report(f"not judged: {error}", failed=True)
            return False
        return True

    async def _refuse(self, bundle: str, harm: Harm) -> None:
        """Let the bundle before it answer everything again, and point back to it."""
        assert self.active is not None
        took_over = self.trial is None
        good = self.kept if took_over else self.active
        assert good is not None
        if self.trial is not None:
            self._set_routes(partial(self.trial.route, "trial"))  # no query goes to it from now on
        self.refused = Refused.now(bundle, harm.why)
        self._context.report(f"{bundle} is refused: it {harm.why}. {good.bundle.id} answers in its place", failed=True)
        with contextlib.suppress(OSError):  # a full disk: the news have it
            count_refusal(self._context.state.path, bundle, harm.kind)
        if took_over:
            self.trial, self.kept = good, None
            await asyncio.gather(self._switch(0.0), self._point_back(self.refused, good))
        else:
            await self._point_back(self.refused, good)
            await self._withdraw()

    async def _point_back(self, refused: Refused, good: Deployed) -> None:
        back = Release(bundle=good.bundle.folder, id=good.bundle.id)
        try:
            await asyncio.to_thread(refuse, self.source, refused=refused, back=back)
        except (InputError, OSError) as error:
            self._context.report(
                f"{self.source} still points to {refused.id}, which the next start would serve: {error}. Run `limbeck "
                "rollback` on it", failed=True,
            )

    async def _withdraw(self) -> None:
        """End a trial; the queries that its student has are answered first."""
        if self.trial is None:
            return
        if any(route.role == "trial" for route in self._published):  # workers have it open
            self._set_routes(partial(self.trial.route, "trial"))
            await self._context.workers.all_current(_LEAVE_S)
            await self._drained(self.trial)
        failed, self.trial = self.trial, None
        self._set_routes()
        await self._retire(failed)

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

    async def _switch(self, keep_s: float) -> None:
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
        old, self.active, self.trial, self._since = self.active, self.trial, None, _now()
        self._set_routes(partial(old.route, "leaving"))
        await workers.all_current()
        await self._drained(old)
        self._set_routes()
        await workers.all_current()
        if self.kept is not None:
            await self._retire(self.kept)
        self.kept, self._keep_until = old, time.monotonic() + keep_s

    async def _drained(self, deployed: Deployed) -> None:
        """Wait until no request waits for the bundle's student, at most for the time-out of a request."""
        until = time.monotonic() + deployed.settings.request_timeout_s
        while time.monotonic() < until and self._context.workers.waiting(deployed.bundle.id):
            await asyncio.sleep(POLL_S)

    async def _retire(self, deployed: Deployed) -> None:
        await self._context.engines.remove(deployed.placement)
        os.close(deployed.held)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None

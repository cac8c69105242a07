"""The supervisor of `limbeck serve`: engines, gateway workers, and for each task a rollout.

    client → worker 1…n (one socket) → engine → bundles of all tasks that share its model

The supervisor starts engines and workers, restarts them when they die or hang, follows release pointers, and answers
operators on a port of its own. Clients never wait for the supervisor: workers serve according to the last desired state
that they read.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from engine.interface import EngineError
from engine.pool import EnginePool
from serving.release.bundle import Bundle
from serving.release.pointer import open_source
from serving.supervisor.context import RolloutContext
from serving.supervisor.rollout import Rollout
from serving.supervisor.state import StateFolder
from serving.supervisor.worker_pool import POLL_S, WorkerPool
from serving.telemetry.metrics import EngineState
from serving.telemetry.retention import expire_daily
from task.errors import InputError
from task.files import write_json
from task.serving_settings import Serving

_STATUS_S = 0.5  # between two looks at whether `status.json` is out of date


class Supervisor:
    """Runs a service; belongs to one event loop."""

    def __init__(
        self, source: Path, *, state: Path, override: Callable[[Serving], Serving] = lambda s: s
    ) -> None:
        """Prepare to serve.

        Args:
            source: A bundle, a release pointer that is followed, or a folder of pointers: a task each, added and
                removed while the service runs.
            state: The service's state folder: logs, kept answers, the workers' files.
            override: What the operator sets in place of the bundles' settings.

        Raises:
            InputError: Nothing to serve, or another service uses the state folder.
        """
        self._folder = source if source.is_dir() and not (source / "manifest.json").exists() else None
        sources = [source] if self._folder is None else _pointers(self._folder)
        if not source.exists() or not sources:
            raise InputError(
                "neither a bundle, nor a release pointer, nor a folder of pointers (*.json)", file=source,
                fix="`limbeck release` makes a pointer",
            )
        opened = [(s, open_source(s)) for s in sources]
        self.settings = override(opened[0][1].task.serving)
        self.state = StateFolder(state.resolve())
        self.state.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.state.path / "lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise InputError(
                "another service runs from this folder", file=state, field="--state", fix="Give each its own folder"
            ) from None
        _ = self.state.kept.key  # made before the workers need it
        for name in ("bundles", "counted", "metrics"):
            shutil.rmtree(self.state.path / name, ignore_errors=True)
        self.state.metrics.mkdir()
        self.rollouts: dict[Path, Rollout] = {}
        self.news: list[dict[str, Any]] = []
        self._written: dict[str, Any] | None = None
        self._workers = WorkerPool(
            self.state, self.settings, report=self._report, before_start=self._restore_copies
        )
        self._engines = EnginePool(
            self.state.path, answered=self._workers.answered, waiting=self._workers.waiting, report=self._report
        )
        self._context = RolloutContext(self.state, self._engines, self._workers, override, self._report)
        for path, bundle in opened:
            self._add(path, bundle)
        self._followers: dict[Path, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    async def run(
        self, listener: socket.socket, *, admin: Callable[[Supervisor], Awaitable[None]] | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve until a signal.

        Args:
            listener: The bound socket that workers share.
            admin: Serves the operators' port for as long.
            on_ready: Called once every task's student answers.

        Raises:
            EngineError: An engine did not start.
        """
        helpers: list[asyncio.Future[Any]] = []
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, self._stopping.set)
        try:
            opening = asyncio.gather(*(rollout.open() for rollout in self.rollouts.values()))
            await asyncio.sleep(0)  # each has set its routes, which the workers read when they start
            helpers += [
                opening, asyncio.create_task(self._workers.run(listener)), asyncio.create_task(self._publish()),
                asyncio.create_task(self._keep_status()),
                asyncio.create_task(expire_daily(self.state.kept, days=self.settings.capture.days)),
            ]
            if admin is not None:
                helpers.append(asyncio.ensure_future(admin(self)))
            await self._until(opening)
            if not self._stopping.is_set():
                opening.result()
                on_ready()
                for path, rollout in self.rollouts.items():
                    self._followers[path] = asyncio.create_task(rollout.follow())
                helpers.append(asyncio.create_task(self._watch()))
                await self._until(*helpers[1:])
                for helper in helpers:
                    if helper.done() and not helper.cancelled() and helper.exception() is not None:
                        raise helper.exception() or RuntimeError
        finally:
            await self._stop([*helpers, *self._followers.values()])

    async def _until(self, *futures: asyncio.Future[Any]) -> None:
        """Wait for one of them, or for the signal to stop."""
        signalled = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([signalled, *futures], return_when=asyncio.FIRST_COMPLETED)
        finally:
            signalled.cancel()

    async def _stop(self, helpers: list[asyncio.Future[Any]]) -> None:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        await self._workers.stop()
        await self._engines.close()
        self._report("stopped")
        self._lock.release()

    # -- tasks ----------------------------------------------------------------------------------------------------

    def _add(self, path: Path, bundle: Bundle) -> Rollout:
        for other in self.rollouts.values():
            if other.task == bundle.task.name:
                raise InputError(
                    f"two pointers to task {bundle.task.name!r}", file=path, found=path.name,
                    expected=f"only {other.source.name}", fix="Remove one of them",
                )
        self.rollouts[path] = Rollout(path, bundle, self._context)
        return self.rollouts[path]

    async def _watch(self) -> None:
        """Raise the error that ended a rollout; in a folder of pointers, add and remove tasks as files come and go."""
        refused: dict[Path, int] = {}
        while True:
            for follower in self._followers.values():
                if follower.done():
                    follower.result()
            if self._folder is not None:
                present = {p: p.stat().st_mtime_ns for p in _pointers(self._folder)}
                for path in [p for p in self.rollouts if p not in present]:
                    await self._remove(path)
                    self._report(f"{path.name} is gone")
                for path in [p for p in present if p not in self.rollouts and refused.get(p) != present[p]]:
                    try:
                        rollout = self._add(path, await asyncio.to_thread(open_source, path))
                        self._report(f"{path.name}: opening {rollout.task}")
                        self._followers[path] = asyncio.create_task(self._open_and_follow(rollout))
                    except (InputError, OSError) as error:
                        refused[path] = present[path]
                        self._report(f"not served: {error}", failed=True)
            await asyncio.sleep(POLL_S)

    async def _open_and_follow(self, rollout: Rollout) -> None:
        try:
            await rollout.open()
        except (EngineError, InputError, OSError) as error:
            self._report(f"{rollout.source.name} is not served by its student: {error}", failed=True)
            await asyncio.Event().wait()  # its cache answers, until the pointer is removed
        await rollout.follow()

    async def _remove(self, path: Path) -> None:
        follower = self._followers.pop(path, None)
        if follower is not None:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
        await self.rollouts[path].close()
        del self.rollouts[path]

    async def _publish(self) -> None:
        """Publish which engines have been checked: workers query no others."""
        while True:
            for rollout in self.rollouts.values():
                with contextlib.suppress(OSError):  # a full disk: tried again in a moment
                    rollout.publish()
            await asyncio.sleep(POLL_S)

    async def _keep_status(self) -> None:
        """Keep `status.json` up to date between events: an engine is asked again a moment after it is ready."""
        while True:
            self._write_status()
            await asyncio.sleep(_STATUS_S)

    def _restore_copies(self) -> None:
        for rollout in self.rollouts.values():
            rollout.restore_copies()

    # -- status ---------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """All of `/status`, JSON-ready."""
        return {
            "tasks": {r.task: r.status() for r in self.rollouts.values()}, "generation": self._workers.generation,
            "workers": self._workers.status(), "news": self.news[-20:],
        }

    def engines(self) -> list[EngineState]:
        """The engines of all tasks, for the metrics."""
        return [engine for rollout in self.rollouts.values() for engine in rollout.engines()]

    def _report(self, text: str, *, failed: bool = False) -> None:
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        self.news.append({"at": at, "text": text, "failed": failed})
        print(text, file=sys.stderr, flush=True)
        self._write_status()

    def _write_status(self) -> None:
        """Write `status.json` where anything but the number of waiting queries has changed."""
        now = self.status()
        lasting = {**now, "workers": [{k: v for k, v in w.items() if k != "waiting"} for w in now["workers"]]}
        if lasting != self._written:
            with contextlib.suppress(OSError):  # a full disk: tried again in a moment
                write_json(self.state.path / "status.json", now)
                self._written = lasting


def _pointers(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*.json") if not p.name.startswith("."))

"""`limbeck serve`: engines, gateway workers, and the change from one bundle to the next without a failed request.

    client → worker 1…n (one socket) → engine of the bundle

The supervisor starts both, starts them again when they die or hang, follows the release pointer, and answers operators
on a port of its own. Clients never wait for it: workers serve by the last state that they were told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from serving.bundle import Bundle, copy_small, open_bundle
from serving.engine import EngineError, die_with_parent
from serving.keeper import FORGIVEN_AFTER_S, LONGEST_PAUSE_S, Keeper
from serving.release import Pointer, Release, read_pointer
from serving.state import StateFolder, Wanted, WantedRoute
from task.errors import InputError
from task.files import write_json
from task.service import Change, Serving

_LOOK_S = 0.1
_WORKER_PAUSE_S = 0.1  # before the first restart; each one soon after another doubles it
_SILENT_S = 15.0  # a worker that has said nothing for so long hangs


@dataclass(slots=True)
class Deployed:
    """A bundle that has an engine."""

    bundle: Bundle
    copy: Path
    keeper: Keeper
    task: asyncio.Task[None]

    def route(self, role: Any, canary: float = 0.0, shadow: float = 0.0) -> WantedRoute:
        """What workers are told of it."""
        return WantedRoute(folder=self.copy, engine=self.keeper.url, role=role, canary=canary, shadow=shadow)


@dataclass(slots=True)
class WorkerProcess:
    """A place for a worker, and the process that has it."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restarts: int = 0
    pause: float = _WORKER_PAUSE_S
    not_before: float = 0.0


class Supervisor:
    """See the module; belongs to one event loop."""

    def __init__(
        self, source: Path, state: Path, override: Callable[[Serving], Serving] = lambda s: s
    ) -> None:
        """Prepare to serve.

        Args:
            source: A bundle, or a release pointer that is followed.
            state: A folder of its own: logs, kept answers, the workers' files.
            override: What the operator sets in place of the bundle's settings.

        Raises:
            InputError: Nothing to serve, or somebody serves from that folder already.
        """
        self._pointer_file = None if source.is_dir() else source
        if not source.exists():
            raise InputError("neither a bundle nor a release pointer", file=source, fix="`limbeck release` makes one")
        first = source if self._pointer_file is None else read_pointer(source).current.bundle
        self._first = open_bundle(first)
        self._override = override
        self.settings = override(self._first.task.serving)
        self.state = StateFolder(state.resolve())
        self.state.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.state.path / "lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise InputError(
                "another service runs from this folder", file=state, field="--state", fix="Give each its own folder"
            ) from None
        for name in ("bundles", "metrics"):
            shutil.rmtree(self.state.path / name, ignore_errors=True)
        self.state.metrics.mkdir()
        self.active: Deployed | None = None
        self.trial: Deployed | None = None
        self.kept: Deployed | None = None
        self.workers = [WorkerProcess(n) for n in range(self.settings.workers)]
        self.news: list[dict[str, Any]] = []
        self._generation = 0
        self._keep_until = 0.0
        self._listener: socket.socket | None = None
        self._stopping = asyncio.Event()

    # -- life -----------------------------------------------------------------------------------------------------

    async def run(
        self, listener: socket.socket, beside: Callable[[Supervisor], Awaitable[None]] | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve until a signal.

        Args:
            listener: The bound socket that workers share.
            beside: Runs for as long: the operators' port.
            on_ready: Called once the engine answers.

        Raises:
            EngineError: The first engine did not start.
        """
        self._listener = listener
        helpers: list[asyncio.Future[None]] = []
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, self._stopping.set)
        try:
            self.active = self._deploy(self._first)
            self._want()
            helpers.append(asyncio.create_task(self._keep_workers()))
            if beside is not None:
                helpers.append(asyncio.ensure_future(beside(self)))
            await self._until(self.active.keeper.ready.wait(), self.active.task)
            if not self._stopping.is_set():
                if not self.active.keeper.ready.is_set():
                    raise EngineError(self.active.keeper.why)
                on_ready()
                self._tell(f"serving {self.active.bundle.id}")
                helpers.append(asyncio.create_task(self._follow()))
                await self._until(self._stopping.wait(), *helpers)
                for helper in helpers:
                    if helper.done() and not helper.cancelled() and helper.exception() is not None:
                        raise helper.exception() or RuntimeError
        finally:
            await self._stop(helpers)

    async def _until(self, awaitable: Awaitable[object], *others: asyncio.Future[None]) -> None:
        """Wait for one of them, or for the signal to stop."""
        mine: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(awaitable), asyncio.ensure_future(self._stopping.wait()),
        ]
        try:
            await asyncio.wait([*mine, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in mine:
                task.cancel()

    async def _stop(self, helpers: list[asyncio.Future[None]]) -> None:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        for worker in self.workers:
            if worker.process is not None:
                worker.process.send_signal(signal.SIGTERM)
        patience = time.monotonic() + self.settings.request_timeout_s + 2
        while time.monotonic() < patience and any(w.process and w.process.poll() is None for w in self.workers):
            await asyncio.sleep(0.05)
        for worker in self.workers:
            if worker.process is not None and worker.process.poll() is None:
                worker.process.kill()
        for deployed in (self.trial, self.kept, self.active):
            if deployed is not None:
                await _retire(deployed)
        self._lock.release()

    # -- workers --------------------------------------------------------------------------------------------------

    async def _keep_workers(self) -> None:
        while True:
            now = time.monotonic()
            for worker in self.workers:
                process = worker.process
                if process is not None and process.poll() is not None:
                    self._tell(f"worker {worker.number} ended with code {process.returncode}")
                    self._bury(worker, now)
                elif process is not None and self._silent(worker, now):
                    self._tell(f"worker {worker.number} is silent and is killed")
                    process.kill()
                    process.wait()
                    self._bury(worker, now)
                if worker.process is None and now >= worker.not_before:
                    self._start(worker, now)
            await asyncio.sleep(_LOOK_S)

    def _silent(self, worker: WorkerProcess, now: float) -> bool:
        age = self.state.age(worker.number, time.time())
        return now - worker.started > 2 * _SILENT_S and (age is None or age > _SILENT_S)

    def _bury(self, worker: WorkerProcess, now: float) -> None:
        if worker.process is not None:
            for path in self.state.metrics.glob(f"gauge_live*_{worker.process.pid}.db"):
                path.unlink()  # what is live only is gone; counters stay and add up
        worker.process = None
        worker.restarts += 1
        if now - worker.started > FORGIVEN_AFTER_S:
            worker.pause = _WORKER_PAUSE_S
        worker.not_before = now + worker.pause
        worker.pause = min(LONGEST_PAUSE_S, 2 * worker.pause)
        self.state.forget(worker.number)

    def _start(self, worker: WorkerProcess, now: float) -> None:
        assert self._listener is not None
        self._heal_copies()
        handle = self._listener.fileno()
        environment = {
            **os.environ, "PROMETHEUS_MULTIPROC_DIR": str(self.state.metrics), "TOKENIZERS_PARALLELISM": "false",
        }
        with (self.state.path / f"worker-{worker.number}.log").open("ab") as log:
            worker.process = subprocess.Popen(
                [sys.executable, "-m", "serving.worker", str(self.state.path), str(worker.number), str(handle)],
                pass_fds=[handle], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                preexec_fn=die_with_parent,
            )
        worker.started = now

    def _heal_copies(self) -> None:
        """A worker may have died of a copy that somebody cut short: mapped memory without a file behind it kills."""
        for deployed in filter(None, (self.active, self.trial)):
            bundle, copy = deployed.bundle, deployed.copy
            with contextlib.suppress(OSError, InputError):  # the bundle is damaged as well: what is left must do
                if any(_size(copy / name) != _size(bundle.folder / name) for name in bundle.small_files):
                    copy_small(bundle, copy)

    # -- bundles --------------------------------------------------------------------------------------------------

    def _deploy(self, bundle: Bundle) -> Deployed:
        copy = copy_small(bundle, self.state.copy_of(bundle.id))
        settings = self._override(bundle.task.serving)
        log = self.state.path / f"engine-{bundle.id}.log"

        def progress() -> int:
            said = (self.state.said(w.number) for w in self.workers)
            return sum(s.answered.get(bundle.id, 0) for s in said if s is not None)

        keeper = Keeper(bundle, settings, log, progress)
        return Deployed(bundle, copy, keeper, asyncio.create_task(keeper.run()))

    def _want(self, *trial: WantedRoute) -> None:
        assert self.active is not None
        self._generation += 1
        self.state.want(Wanted(
            generation=self._generation, settings=self.settings, routes=(self.active.route("active"), *trial)
        ))

    async def _follow(self) -> None:
        """Follow the pointer, and end the engine of the bundle before when its time is over."""
        seen = None
        while True:
            if self._pointer_file is not None:
                with contextlib.suppress(OSError):
                    stamp = self._pointer_file.stat().st_mtime_ns
                    if stamp != seen:
                        seen = stamp
                        await self._change_to_pointer()
            if self.kept is not None and time.monotonic() >= self._keep_until:
                gone, self.kept = self.kept, None
                await _retire(gone)
                self._tell(f"the engine of {gone.bundle.id} is ended")
            await asyncio.sleep(_LOOK_S)

    async def _change_to_pointer(self) -> None:
        assert self._pointer_file is not None
        assert self.active is not None
        try:
            pointer = read_pointer(self._pointer_file)
            if pointer.current.id != self.active.bundle.id:
                await self._change(pointer)
        except (InputError, EngineError, OSError) as error:
            self._tell(f"not changed: {error}", failed=True)
            if self.trial is not None:
                gone, self.trial = self.trial, None
                self._want()
                await _retire(gone)

    async def _change(self, pointer: Pointer) -> None:
        """Start the new bundle beside the old one, try it, switch."""
        change, started = pointer.change, time.monotonic()
        self._tell(f"changing to {pointer.current.id}")
        if self.kept is not None and self.kept.bundle.id == pointer.current.id:
            self.trial, self.kept = self.kept, None
        else:
            self.trial = await self._started(pointer.current)
        for what, share, seconds in (
            ("shadow", change.shadow, change.shadow_s), ("canary", change.canary, change.canary_s)
        ):
            if share and seconds:
                self._want(self.trial.route("trial", **{what: share}))
                self._tell(f"{what} of {share:.0%} for {seconds:g} s")
                await self._stays(pointer, seconds)
        await self._stays(pointer, 0.0)
        await self._switch(change)
        self._tell(f"serving {pointer.current.id} after {time.monotonic() - started:.1f} s")

    async def _started(self, release: Release) -> Deployed:
        """A verified bundle whose engine answers and has been warmed up."""
        bundle = await asyncio.to_thread(open_bundle, release.bundle)
        if bundle.id != release.id:
            raise InputError(
                "another bundle stands there than was released", file=release.bundle, found=bundle.id,
                expected=release.id,
            )
        deployed = self._deploy(bundle)
        await self._until(deployed.keeper.ready.wait(), deployed.task)
        if not deployed.keeper.ready.is_set():
            await _retire(deployed)
            raise EngineError(deployed.keeper.why or "stopped")
        return deployed

    async def _switch(self, change: Change) -> None:
        """All workers answer with the new bundle; the old one's requests are finished first, its engine kept a while.

        Workers open the new bundle before they take it into service, so both are open for a moment in each.
        """
        assert self.active is not None
        assert self.trial is not None
        self._want(self.trial.route("trial"))  # opened everywhere: the switch itself is an assignment
        if not await self._agreed():
            raise EngineError("not all workers have opened the new bundle")
        old, self.active, self.trial = self.active, self.trial, None
        self._want(old.route("leaving"))
        await self._agreed()
        patience = time.monotonic() + self.settings.request_timeout_s
        while time.monotonic() < patience and self._waiting(old.bundle.id):
            await asyncio.sleep(_LOOK_S)
        self._want()
        await self._agreed()
        if self.kept is not None:
            await _retire(self.kept)
        self.kept, self._keep_until = old, time.monotonic() + change.keep_s

    async def _agreed(self, patience_s: float = 30.0) -> bool:
        """Whether every worker serves what is wanted, soon; one that is started later reads it anyway."""
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            said = [self.state.said(w.number) for w in self.workers if w.process is not None]
            if all(s is not None and s.generation >= self._generation for s in said):
                return True
            await asyncio.sleep(0.02)
        return False

    async def _stays(self, pointer: Pointer, seconds: float) -> None:
        """Wait for so long; raises `InputError` as soon as the pointer points elsewhere."""
        assert self._pointer_file is not None
        found, until = "", time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, InputError):
                found = read_pointer(self._pointer_file).current.id
                if found != pointer.current.id:
                    break
            if time.monotonic() >= until:
                return
            await asyncio.sleep(_LOOK_S)
        raise InputError("the pointer points elsewhere now", file=self._pointer_file, found=found)

    def _waiting(self, bundle_id: str) -> int:
        said = (self.state.said(w.number) for w in self.workers)
        return sum(s.waiting.get(bundle_id, 0) for s in said if s is not None)

    # -- what operators see ---------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Everything in one look, JSON-ready."""

        def engine(deployed: Deployed | None) -> dict[str, Any] | None:
            if deployed is None:
                return None
            k = deployed.keeper
            return {
                "bundle": deployed.bundle.id, "folder": str(deployed.bundle.folder),
                "model": deployed.bundle.model_name,
                "engine": k.state, "pid": k.pid, "restarts": k.restarts, "log": str(k.log), "why": k.why or None,
            }

        workers = []
        for w in self.workers:
            said = self.state.said(w.number)
            workers.append({
                "number": w.number, "pid": w.process.pid if w.process else None, "restarts": w.restarts,
                "generation": said.generation if said else None, "waiting": said.waiting if said else {},
            })
        return {
            "active": engine(self.active), "trial": engine(self.trial), "kept": engine(self.kept),
            "generation": self._generation, "workers": workers, "news": self.news[-20:],
        }

    def _tell(self, text: str, *, failed: bool = False) -> None:
        self.news.append({"at": round(time.time(), 3), "text": text, "failed": failed})
        print(text, file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            write_json(self.state.path / "status.json", self.status())


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


async def _retire(deployed: Deployed) -> None:
    deployed.task.cancel()
    await asyncio.gather(deployed.task, return_exceptions=True)

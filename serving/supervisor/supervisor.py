"""`limbeck serve`: engines, gateway workers, and for each task the bundle that it is served with.

    client → worker 1…n (one socket) → engine → bundles of all tasks that share its model

The supervisor starts both, starts them again when they die or hang, follows release pointers, and answers operators on
a port of its own. Clients never wait for it: workers serve by the last state that they were told.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from engine.pool import Engines
from engine.process import EngineError
from serving.release.bundle import Bundle, open_bundle
from serving.release.pointer import read_pointer
from serving.supervisor.rollout import House, Line
from serving.supervisor.state import StateFolder
from serving.supervisor.worker_pool import LOOK_S, Crew
from task.errors import InputError
from task.files import write_json
from task.serving_settings import Serving


class Supervisor:
    """See the module; belongs to one event loop."""

    def __init__(
        self, source: Path, state: Path, override: Callable[[Serving], Serving] = lambda s: s
    ) -> None:
        """Prepare to serve.

        Args:
            source: A bundle, a release pointer that is followed, or a folder of pointers: a task each, added and
                removed while the service runs.
            state: A folder of its own: logs, kept answers, the workers' files.
            override: What the operator sets in place of the bundles' settings.

        Raises:
            InputError: Nothing to serve, or somebody serves from that folder already.
        """
        self._folder = source if source.is_dir() and not (source / "manifest.json").exists() else None
        sources = [source] if self._folder is None else _pointers(self._folder)
        if not source.exists() or not sources:
            raise InputError(
                "neither a bundle, nor a release pointer, nor a folder of pointers (*.json)", file=source,
                fix="`limbeck release` makes a pointer",
            )
        opened = [(s, _opened(s)) for s in sources]
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
        for name in ("bundles", "metrics"):
            shutil.rmtree(self.state.path / name, ignore_errors=True)
        self.state.metrics.mkdir()
        self.lines: dict[Path, Line] = {}
        self.news: list[dict[str, Any]] = []
        self._crew = Crew(self.state, self.settings, self._tell, self._heal)
        self._engines = Engines(self.state, self._crew.answered, self._crew.waiting)
        self._house = House(self.state, self._engines, self._crew, override, self._tell)
        for path, bundle in opened:
            self._add(path, bundle)
        self._followers: dict[Path, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    async def run(
        self, listener: socket.socket, beside: Callable[[Supervisor], Awaitable[None]] | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve until a signal.

        Args:
            listener: The bound socket that workers share.
            beside: Runs for as long: the operators' port.
            on_ready: Called once every task's student answers.

        Raises:
            EngineError: An engine did not start.
        """
        helpers: list[asyncio.Future[Any]] = []
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, self._stopping.set)
        try:
            opening = asyncio.gather(*(line.open() for line in self.lines.values()))
            await asyncio.sleep(0)  # each has said what it wants served
            helpers += [
                opening, asyncio.create_task(self._crew.keep(listener)), asyncio.create_task(self._publish()),
            ]
            if beside is not None:
                helpers.append(asyncio.ensure_future(beside(self)))
            await self._until(opening)
            if not self._stopping.is_set():
                opening.result()
                on_ready()
                for path, line in self.lines.items():
                    self._followers[path] = asyncio.create_task(line.follow())
                helpers.append(asyncio.create_task(self._watch()))
                await self._until(*helpers[1:])
                for helper in helpers:
                    if helper.done() and not helper.cancelled() and helper.exception() is not None:
                        raise helper.exception() or RuntimeError
        finally:
            await self._stop([*helpers, *self._followers.values()])

    async def _until(self, *those: asyncio.Future[Any]) -> None:
        """Wait for one of them, or for the signal to stop."""
        signalled = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([signalled, *those], return_when=asyncio.FIRST_COMPLETED)
        finally:
            signalled.cancel()

    async def _stop(self, helpers: list[asyncio.Future[Any]]) -> None:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        await self._crew.stop()
        await self._engines.close()
        self._lock.release()

    # -- tasks ----------------------------------------------------------------------------------------------------

    def _add(self, path: Path, bundle: Bundle) -> Line:
        for other in self.lines.values():
            if other.task == bundle.task.name:
                raise InputError(
                    f"two pointers to task {bundle.task.name!r}", file=path, found=path.name,
                    expected=f"only {other.source.name}", fix="Remove one of them",
                )
        self.lines[path] = Line(path, bundle, self._house)
        return self.lines[path]

    async def _watch(self) -> None:
        """Look after the lines; in a folder of pointers, take up those that come and let go of those that went."""
        refused: dict[Path, int] = {}
        while True:
            for follower in self._followers.values():
                if follower.done():
                    follower.result()
            if self._folder is not None:
                there = {p: p.stat().st_mtime_ns for p in _pointers(self._folder)}
                for path in [p for p in self.lines if p not in there]:
                    await self._remove(path)
                    self._tell(f"{path.name} is gone")
                for path in [p for p in there if p not in self.lines and refused.get(p) != there[p]]:
                    try:
                        line = self._add(path, await asyncio.to_thread(_opened, path))
                        self._tell(f"{path.name}: opening {line.task}")
                        self._followers[path] = asyncio.create_task(self._taken_up(line))
                    except (InputError, OSError) as error:
                        refused[path] = there[path]
                        self._tell(f"not served: {error}", failed=True)
            await asyncio.sleep(LOOK_S)

    async def _taken_up(self, line: Line) -> None:
        try:
            await line.open()
        except (EngineError, InputError, OSError) as error:
            self._tell(f"{line.source.name} is not served by its student: {error}", failed=True)
            await asyncio.Event().wait()  # its cache answers; until somebody takes the pointer away
        await line.follow()

    async def _remove(self, path: Path) -> None:
        follower = self._followers.pop(path, None)
        if follower is not None:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
        await self.lines[path].close()
        del self.lines[path]

    async def _publish(self) -> None:
        """Keep the workers from asking engines that have not been checked, and let them ask those that have."""
        while True:
            for line in self.lines.values():
                with contextlib.suppress(OSError):  # a full disk: told as soon as there is room
                    line.publish()
            await asyncio.sleep(LOOK_S)

    def _heal(self) -> None:
        for line in self.lines.values():
            line.heal_copies()

    # -- what operators see ---------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Everything in one look, JSON-ready."""
        return {
            "tasks": {line.task: line.status() for line in self.lines.values()}, "generation": self._crew.generation,
            "workers": self._crew.status(), "news": self.news[-20:],
        }

    def _tell(self, text: str, *, failed: bool = False) -> None:
        self.news.append({"at": round(time.time(), 3), "text": text, "failed": failed})
        print(text, file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            write_json(self.state.path / "status.json", self.status())


def _pointers(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*.json") if not p.name.startswith("."))


def _opened(source: Path) -> Bundle:
    return open_bundle(source if source.is_dir() else read_pointer(source).current.bundle)

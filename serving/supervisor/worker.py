"""A gateway process: serves what the supervisor wants on the socket that all workers share.

    python -m serving.supervisor.worker STATE_FOLDER NUMBER SOCKET

One of several; started and watched by `serving.supervisor`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn
import uvloop

from engine.client import StudentClient
from serving.gateway.accept_balancing import Tally
from serving.gateway.api_keys import Callers, read_keys
from serving.gateway.app import Gateway
from serving.gateway.uvicorn_server import ImpatientProtocol, QuietServer
from serving.release.bundle import Bundle, open_copy
from serving.release.head_cache import HeadCache
from serving.routing.kept_answers import Store
from serving.routing.live_teacher import Teacher
from serving.routing.route import Route
from serving.routing.task_routes import Choice, Routes
from serving.supervisor.state import Said, StateFolder, Wanted, WantedRoute
from serving.telemetry.logs import DoubtLog, LineLog, keep_flushing
from serving.telemetry.metrics import Metrics
from serving.telemetry.traces import Traces
from task.errors import InputError
from task.serving_settings import Serving
from task.tokenizer import FastTokenizer, load_tokenizer

_LOOK_S, _SAY_S = 0.05, 0.25


class Worker:
    """What one gateway process knows."""

    def __init__(self, state: StateFolder, number: int) -> None:
        self.state, self.number = state, number
        wanted = state.read_wanted()
        self.settings: Serving = wanted.settings
        self.log = LineLog(state.access)
        self._doubt_lines = LineLog(state.uncertain)
        self.doubts = DoubtLog(self._doubt_lines)
        self.metrics = Metrics()
        back = self.settings.write_back
        self.store = Store(state.store, back.ttl_s, back.rows)
        self.gateway = Gateway(
            Routes(), self.settings, self.metrics, Callers(None, self.settings.workers),
            self.log if self.settings.access_log else None,
            Traces(self.settings.traces, self.settings.trace_share) if self.settings.traces else None,
        )
        self._open: dict[tuple[Path, str], Route] = {}
        self._stamp = self._keys_stamp = -1
        self._generation = -1

    async def follow(self) -> None:
        """Bring what is served to what is wanted, again and again; say so."""
        said = 0.0
        loop = asyncio.get_running_loop()
        while True:
            changed = False
            with contextlib.suppress(FileNotFoundError):
                stamp = self.state.wanted.stat().st_mtime_ns
                if stamp != self._stamp:
                    self._stamp, changed = stamp, True
                    await self._serve(self.state.read_wanted())
            self._read_keys()
            if changed or loop.time() - said >= _SAY_S:
                said = loop.time()
                self._say()
            await asyncio.sleep(_LOOK_S)

    async def _serve(self, wanted: Wanted) -> None:
        opened: dict[tuple[Path, str], Route] = {}
        for want in wanted.routes:
            key = (want.folder, want.engine)
            opened[key] = self._open.get(key) or await self._opened(want)
            opened[key].let(checked=want.checked)
        tasks: dict[str, Choice] = {}
        by_task: dict[str, dict[str, tuple[Route, WantedRoute]]] = {}
        for want in wanted.routes:
            route = opened[want.folder, want.engine]
            by_task.setdefault(route.bundle.task.name, {})[want.role] = (route, want)
        for name, roles in by_task.items():
            if "active" in roles:
                trial = roles.get("trial")
                tasks[name] = Choice(
                    roles["active"][0], trial[0] if trial else None, trial[1].canary if trial else 0.0,
                    trial[1].shadow if trial else 0.0,
                )
        self.gateway.routes = Routes(tasks)  # from here on every new request sees the new state
        gone = [r for k, r in self._open.items() if k not in opened]
        self._open, self._generation = opened, wanted.generation
        for route in gone:
            await route.close()

    async def _opened(self, wanted: WantedRoute) -> Route:
        def read() -> tuple[Bundle, HeadCache, FastTokenizer]:
            bundle = open_copy(wanted.folder)
            return bundle, HeadCache(wanted.folder / "cache"), load_tokenizer(bundle.model)

        bundle, cache, tokenizer = await asyncio.to_thread(read)
        settings = wanted.settings
        client = StudentClient.of(bundle, wanted.engine, tokenizer, settings.request_timeout_s, settings.max_model_len)
        route = Route(
            bundle, cache, client, settings, self.store,
            lambda query, probability: self.doubts.add(bundle.id, query, probability, settings.certain),
        )
        if settings.consult.per_hour:
            route.use_teacher(Teacher(
                settings.consult, bundle.task, self.settings.workers,
                lambda outcome: self.metrics.count(self.metrics.consulted, outcome),
            ))
        return route

    def _read_keys(self) -> None:
        path = self.settings.keys
        if path is None:
            return
        stamp = path.stat().st_mtime_ns if path.exists() else 0
        if stamp != self._keys_stamp:
            self._keys_stamp = stamp
            try:
                self.gateway.callers.rows = read_keys(path)
            except InputError as error:  # a file that is being edited: those who could ask still can
                print(error, file=sys.stderr, flush=True)
                if self.gateway.callers.rows is None:
                    self.gateway.callers.rows = {}

    def _say(self) -> None:
        routes = self._open.values()
        self.metrics.waiting.set(sum(r.waiting for r in routes))
        self.metrics.lost.labels("access log").set(self.log.dropped)
        self.metrics.lost.labels("uncertain log").set(self._doubt_lines.dropped)
        self.metrics.lost.labels("kept answers").set(self.store.problems)
        with contextlib.suppress(OSError):  # a full disk: the supervisor sees an old word and a live process
            self.state.say(self.number, Said(
                pid=os.getpid(), generation=self._generation, waiting={r.bundle.id: r.waiting for r in routes},
                answered={r.bundle.id: r.answered for r in routes},
            ))

    async def run(self, listener: socket.socket) -> None:
        """Serve until SIGTERM; then finish what has begun."""
        server = QuietServer(uvicorn.Config(
            self.gateway, log_level="warning", access_log=False, http=ImpatientProtocol, lifespan="off", ws="none",
            timeout_graceful_shutdown=round(self.settings.request_timeout_s) + 1, server_header=False,
            date_header=False, backlog=2048,
        ), Tally(self.state.tally, self.number, self.settings.workers))
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, setattr, server, "should_exit", True)
        if self.settings.keys is not None:
            self.gateway.callers.rows = {}  # nobody, until the file has been read
        self._read_keys()
        # Not before it has something to serve: the others take what comes until then.
        while self._generation < 0:
            with contextlib.suppress(FileNotFoundError):
                self._stamp = self.state.wanted.stat().st_mtime_ns
                await self._serve(self.state.read_wanted())
        helpers = [
            asyncio.create_task(self.follow()), asyncio.create_task(keep_flushing(self.log, self.doubts)),
        ]
        for helper in helpers:
            helper.add_done_callback(_loud)
        try:
            await server.serve([listener])
        finally:
            for helper in helpers:
                helper.remove_done_callback(_loud)
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            for route in self._open.values():
                await route.close()
            self.store.close()
            if self.gateway.traces is not None:
                self.gateway.traces.close()


def _loud(task: asyncio.Task[None]) -> None:
    """A helper never ends by itself: the process does, and the supervisor starts another."""
    print(f"{task.get_coro()} ended: {task.exception() if not task.cancelled() else 'cancelled'}", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """The process."""
    folder, number, handle = sys.argv[1:]
    listener = socket.socket(fileno=int(handle))
    worker = Worker(StateFolder(Path(folder)), int(number))
    uvloop.run(worker.run(listener))


if __name__ == "__main__":
    main()

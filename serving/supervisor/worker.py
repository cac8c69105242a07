"""A gateway worker process: serves the supervisor's desired state on the socket that all workers share.

    python -m serving.supervisor.worker STATE_FOLDER NUMBER SOCKET

Started and watched by `serving.supervisor.worker_pool`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Collection
from pathlib import Path

import uvloop

from engine.kind import engine_kind
from serving.gateway.accept_balancing import ConnectionCounts
from serving.gateway.admission import Callers
from serving.gateway.api_keys import read_keys
from serving.gateway.app import Gateway
from serving.gateway.uvicorn_server import EmbeddedServer, server_config
from serving.release.bundle import Bundle, open_copy
from serving.release.head_cache import HeadCache
from serving.routing.kept_answers import Store
from serving.routing.live_teacher import LiveTeacher
from serving.routing.route import Route
from serving.routing.student_tally import CountedQueries, StudentFigures, StudentTally
from serving.routing.task_routes import Choice, Routes
from serving.supervisor.state import DesiredRoute, DesiredState, StateFolder, WorkerReport
from serving.telemetry.capture_log import CaptureLog, keep_capturing
from serving.telemetry.logs import LineLog, UncertainLog, keep_flushing
from serving.telemetry.metrics import Metrics
from serving.telemetry.traces import Traces
from task.errors import InputError
from task.serving_settings import Serving
from task.tokenizer import FastTokenizer, load_tokenizer

_POLL_S, _REPORT_S = 0.05, 0.25


class Worker:
    """The state of one worker process."""

    def __init__(self, state: StateFolder, number: int) -> None:
        self.state, self.number = state, number
        self.settings: Serving = state.read_desired().settings
        self.log = LineLog(state.access)
        self.uncertain = UncertainLog(state.kept)
        self.metrics = Metrics(state.path)
        back, key = self.settings.write_back, state.kept.key
        self.store = Store(state.store, ttl_s=back.ttl_s, max_rows=back.rows, hashed=key.hash)
        self.captures = self._capturing()
        self.gateway = Gateway(
            Routes(), self.settings, metrics=self.metrics, callers=Callers(None, self.settings.workers),
            access=self.log if self.settings.access_log else None, captures=self.captures, kept=state.kept,
            traces=Traces(self.settings.traces, self.settings.trace_share) if self.settings.traces else None,
        )
        self._open: dict[tuple[Path, str], Route] = {}
        self._counted: dict[str, CountedQueries] = {}
        self._tallies: dict[tuple[str, str], StudentTally] = {}
        self._stamp = self._keys_stamp = -1
        self._generation = -1

    def _capturing(self) -> CaptureLog | None:
        """The captures of this worker: its share of the rows of a window."""
        wanted = self.settings.capture
        if not wanted.rows:
            return None
        return CaptureLog(
            self.state.kept, rows=max(1, wanted.rows // self.settings.workers), window_s=wanted.window_s,
            on_written=lambda bundle, rows: self.metrics.captured.labels(bundle).inc(rows),
        )

    async def follow(self) -> None:
        """Follow the desired state and report, until cancelled."""
        reported = 0.0
        loop = asyncio.get_running_loop()
        while True:
            changed = False
            with contextlib.suppress(FileNotFoundError):
                stamp = self.state.desired.stat().st_mtime_ns
                if stamp != self._stamp:
                    self._stamp, changed = stamp, True
                    await self._serve(self.state.read_desired())
            self._read_keys()
            if changed or loop.time() - reported >= _REPORT_S:
                reported = loop.time()
                self._report()
            await asyncio.sleep(_POLL_S)

    async def _serve(self, desired: DesiredState) -> None:
        opened: dict[tuple[Path, str], Route] = {}
        for wanted in desired.routes:
            key = (wanted.folder, wanted.engine)
            opened[key] = self._open.get(key) or await self._opened(wanted)
            opened[key].set_engine_checked(wanted.checked)
            opened[key].tally = self._tally(wanted.tally, opened[key].bundle.id)
        tasks: dict[str, Choice] = {}
        by_task: dict[str, dict[str, tuple[Route, DesiredRoute]]] = {}
        for wanted in desired.routes:
            route = opened[wanted.folder, wanted.engine]
            by_task.setdefault(route.bundle.task.name, {})[wanted.role] = (route, wanted)
        for name, roles in by_task.items():
            if "active" in roles:
                trial = roles.get("trial")
                tasks[name] = Choice(
                    roles["active"][0], trial[0] if trial else None, canary=trial[1].canary if trial else 0.0,
                    shadow=trial[1].shadow if trial else 0.0,
                )
        # The supervisor's check was an answer: a worker that nobody has asked yet is as ready as its neighbours.
        self.gateway.ready |= bool(tasks) and all(c.active.engine_checked for c in tasks.values())
        self.metrics.engines = tuple(wanted.engine_state() for wanted in desired.routes)
        self.gateway.routes = Routes(tasks)  # from here on every new request sees the new state
        self._end_tallies({wanted.tally for wanted in desired.routes})
        closed = [r for k, r in self._open.items() if k not in opened]
        self._open, self._generation = opened, desired.generation
        for route in closed:
            await route.close()

    def _tally(self, name: str, bundle: str) -> StudentTally | None:
        """A bundle's counters in a counting that is under way; None in none, or where its file cannot be opened."""
        if not name:
            return None
        with contextlib.suppress(OSError):
            if name not in self._counted:
                self._counted[name] = CountedQueries(self.state.counted(name), self.state.kept.key.hash)
            if (name, bundle) not in self._tallies:
                self._tallies[name, bundle] = StudentTally(self._counted[name])
        return self._tallies.get((name, bundle))

    def _end_tallies(self, under_way: Collection[str]) -> None:
        for name in [n for n in self._counted if n not in under_way]:
            self._counted.pop(name).close()
        self._tallies = {k: tally for k, tally in self._tallies.items() if k[0] in under_way}

    async def _opened(self, wanted: DesiredRoute) -> Route:
        def read() -> tuple[Bundle, HeadCache, FastTokenizer]:
            bundle = open_copy(wanted.folder)
            return bundle, HeadCache(wanted.folder / "cache"), load_tokenizer(bundle.model)

        bundle, cache, tokenizer = await asyncio.to_thread(read)
        settings = wanted.settings
        client = engine_kind(bundle, settings).connect(
            bundle, wanted.engine, tokenizer, timeout_s=settings.request_timeout_s, max_tokens=settings.max_model_len
        )
        route = Route(
            bundle, cache, client, settings, store=self.store,
            on_uncertain=lambda query, probability: self.uncertain.add(
                bundle=bundle.id, query=query, probability=probability, settings=settings.certain
            ),
            on_invalid=lambda kind: self.metrics.count(self.metrics.invalid, bundle.id, kind),
        )
        if settings.consult.per_hour:
            route.use_teacher(LiveTeacher(
                settings.consult, bundle.task, processes=self.settings.workers,
                on_outcome=lambda outcome: self.metrics.count(self.metrics.consulted, outcome),
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
            except InputError as error:  # a file that is being edited: the keys that were valid stay so
                print(error, file=sys.stderr, flush=True)
                if self.gateway.callers.rows is None:
                    self.gateway.callers.rows = {}

    def _figures(self) -> dict[str, dict[str, StudentFigures]]:
        found: dict[str, dict[str, StudentFigures]] = {}
        for (name, bundle), tally in self._tallies.items():
            found.setdefault(name, {})[bundle] = tally.figures()
        return found

    def _report(self) -> None:
        routes = self._open.values()
        self.metrics.waiting.set(sum(r.waiting for r in routes))
        self.metrics.lost.labels("access log").set(self.log.dropped)
        self.metrics.lost.labels("uncertain log").set(self.uncertain.dropped)
        self.metrics.lost.labels("captures").set(self.captures.lost if self.captures is not None else 0)
        self.metrics.lost.labels("kept answers").set(self.store.problems)
        with contextlib.suppress(OSError):  # a full disk: the supervisor sees an old report of a live process
            self.state.write_report(self.number, WorkerReport(
                pid=os.getpid(), generation=self._generation, waiting={r.bundle.id: r.waiting for r in routes},
                answered={r.bundle.id: r.answered for r in routes}, figures=self._figures(),
            ))

    async def run(self, listener: socket.socket) -> None:
        """Serve until SIGTERM; then finish the requests in flight."""
        server = EmbeddedServer(server_config(
            self.gateway, timeout_graceful_shutdown=round(self.settings.request_timeout_s) + 1, backlog=2048
        ), ConnectionCounts(self.state.connections, number=self.number, processes=self.settings.workers))
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, setattr, server, "should_exit", True)
        if self.settings.keys is not None:
            self.gateway.callers.rows = {}  # no key is valid until the file has been read
        self._read_keys()
        # Accept no connection before there is something to serve: until then the other workers take them.
        while self._generation < 0:
            with contextlib.suppress(FileNotFoundError):
                self._stamp = self.state.desired.stat().st_mtime_ns
                await self._serve(self.state.read_desired())
        background = [
            asyncio.create_task(self.follow()), asyncio.create_task(keep_flushing(self.log, self.uncertain)),
        ]
        if self.captures is not None:
            background.append(asyncio.create_task(keep_capturing(self.captures)))
        for task in background:
            task.add_done_callback(_end_process)
        try:
            await server.serve([listener])
        finally:
            for task in background:
                task.remove_done_callback(_end_process)
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            for route in self._open.values():
                await route.close()
            self.store.close()
            if self.gateway.traces is not None:
                self.gateway.traces.close()


def _end_process(task: asyncio.Task[None]) -> None:
    """End the process when a background task ends, which it never should: the supervisor starts another."""
    print(f"{task.get_coro()} ended: {task.exception() if not task.cancelled() else 'cancelled'}", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run a worker process."""
    folder, number, handle = sys.argv[1:]
    listener = socket.socket(fileno=int(handle))
    worker = Worker(StateFolder(Path(folder)), int(number))
    uvloop.run(worker.run(listener))


if __name__ == "__main__":
    main()

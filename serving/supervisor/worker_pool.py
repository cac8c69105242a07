"""The gateway's worker processes: started, watched, given their routes, and restarted when they die or hang."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.process_guard import die_with_parent
from engine.watchdog import MAX_PAUSE_S, STABLE_AFTER_S
from serving.supervisor.state import DesiredRoute, DesiredState, StateFolder, WorkerReport
from task.python_process import ended, environment, python
from task.serving_settings import Serving

POLL_S = 0.1
_FIRST_PAUSE_S = 0.1  # before the first restart; each failure soon after the last doubles the pause
_SILENT_S = 15.0  # a worker that has not reported for so long hangs


@dataclass(slots=True)
class WorkerProcess:
    """A numbered worker and its current process."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restarts: int = 0
    pause: float = _FIRST_PAUSE_S
    not_before: float = 0.0


class WorkerPool:
    """All workers of a service; belongs to one event loop."""

    def __init__(
        self, state: StateFolder, settings: Serving, *, report: Callable[[str], None],
        before_start: Callable[[], None],
    ) -> None:
        """Prepare; `run` starts them.

        Args:
            report: Called with what happens to them.
            before_start: Called before a worker starts: the files that it reads may have caused the death of its
                predecessor.
        """
        self.generation = 0
        self._state, self._settings, self._report, self._before_start = state, settings, report, before_start
        self._workers = [WorkerProcess(n) for n in range(settings.workers)]
        self._routes: dict[str, Sequence[DesiredRoute]] = {}

    # -- what they serve ------------------------------------------------------------------------------------------

    def set_routes(self, source: str, routes: Sequence[DesiredRoute]) -> None:
        """Set what the workers serve for a source from now on; no routes take it out of service."""
        self._routes[source] = routes
        if not routes:
            del self._routes[source]
        self.generation += 1
        self._state.write_desired(DesiredState(
            generation=self.generation, settings=self._settings,
            routes=tuple(r for routes in self._routes.values() for r in routes),
        ))

    async def all_current(self, timeout_s: float = 30.0) -> bool:
        """Wait until every running worker serves the latest routes; False where one does not in time."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            reports = [self._state.read_report(w.number) for w in self._workers if w.process is not None]
            if all(r is not None and r.generation >= self.generation for r in reports):
                return True
            await asyncio.sleep(0.02)
        return False

    def waiting(self, bundle_id: str) -> int:
        """How many queries wait for the student of a bundle."""
        return sum(r.waiting.get(bundle_id, 0) for r in self.reports())

    def answered(self, bundle_id: str) -> int:
        """How many queries the student of a bundle has answered."""
        return sum(r.answered.get(bundle_id, 0) for r in self.reports())

    def reports(self) -> list[WorkerReport]:
        """The last report of each worker that has made one."""
        reports = (self._state.read_report(w.number) for w in self._workers)
        return [r for r in reports if r is not None]

    # -- their processes ------------------------------------------------------------------------------------------

    async def run(self, listener: socket.socket) -> None:
        """Keep all of them running on a bound socket that they share, until cancelled."""
        while True:
            now = time.monotonic()
            for worker in self._workers:
                process = worker.process
                if process is not None and process.poll() is not None:
                    self._report(f"worker {worker.number} {ended(process.returncode)}")
                    self._ended(worker, now)
                elif process is not None and self._hangs(worker, now):
                    self._report(f"worker {worker.number} has not reported and is killed")
                    process.kill()
                    process.wait()
                    self._ended(worker, now)
                if worker.process is None and now >= worker.not_before:
                    self._start(worker, listener, now)
            await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        """Let them finish their requests in flight, then kill those that still run."""
        for worker in self._workers:
            if worker.process is not None:
                worker.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + self._settings.request_timeout_s + 2
        while time.monotonic() < until and any(w.process and w.process.poll() is None for w in self._workers):
            await asyncio.sleep(0.05)
        for worker in self._workers:
            if worker.process is not None and worker.process.poll() is None:
                worker.process.kill()

    def _hangs(self, worker: WorkerProcess, now: float) -> bool:
        age = self._state.report_age(worker.number, time.time())
        return now - worker.started > 2 * _SILENT_S and (age is None or age > _SILENT_S)

    def _ended(self, worker: WorkerProcess, now: float) -> None:
        if worker.process is not None:
            for path in self._state.metrics.glob(f"gauge_live*_{worker.process.pid}.db"):
                path.unlink()  # gauges of live processes only; counters stay and add up
        worker.process = None
        worker.restarts += 1
        if now - worker.started > STABLE_AFTER_S:
            worker.pause = _FIRST_PAUSE_S
        worker.not_before = now + worker.pause
        worker.pause = min(MAX_PAUSE_S, 2 * worker.pause)
        self._state.remove_report(worker.number)

    def _start(self, worker: WorkerProcess, listener: socket.socket, now: float) -> None:
        self._before_start()
        handle = listener.fileno()
        variables = {
            **environment(), "PROMETHEUS_MULTIPROC_DIR": str(self._state.metrics), "TOKENIZERS_PARALLELISM": "false",
        }
        with (self._state.path / f"worker-{worker.number}.log").open("ab") as log:
            worker.process = subprocess.Popen(
                python("-m", "serving.supervisor.worker", str(self._state.path), str(worker.number), str(handle)),
                pass_fds=[handle], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables,
                preexec_fn=die_with_parent,
            )
        worker.started = now

    def status(self) -> list[dict[str, Any]]:
        """What `/status` shows of each."""
        out = []
        for w in self._workers:
            report = self._state.read_report(w.number)
            out.append({
                "number": w.number, "pid": w.process.pid if w.process and w.process.poll() is None else None,
                "restarts": w.restarts,
                "generation": report.generation if report else None, "waiting": report.waiting if report else {},
            })
        return out

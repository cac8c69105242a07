"""The gateway's processes: started, watched, told what to serve, and started again when they die or hang."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.process import die_with_parent
from engine.watchdog import FORGIVEN_AFTER_S, LONGEST_PAUSE_S
from serving.supervisor.state import Said, StateFolder, Wanted, WantedRoute
from task.serving_settings import Serving

LOOK_S = 0.1
_PAUSE_S = 0.1  # before the first restart; each one soon after another doubles it
_SILENT_S = 15.0  # a worker that has said nothing for so long hangs


@dataclass(slots=True)
class WorkerProcess:
    """A place for a worker, and the process that has it."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restarts: int = 0
    pause: float = _PAUSE_S
    not_before: float = 0.0


class Crew:
    """All workers of a service; belongs to one event loop."""

    def __init__(
        self, state: StateFolder, settings: Serving, tell: Callable[[str], None], heal: Callable[[], None]
    ) -> None:
        """Prepare; `keep` starts them.

        Args:
            tell: Told what happens to them.
            heal: Called before a worker starts: what it reads may be what killed the one before.
        """
        self.generation = 0
        self._state, self._settings, self._tell, self._heal = state, settings, tell, heal
        self._workers = [WorkerProcess(n) for n in range(settings.workers)]
        self._wanted: dict[str, Sequence[WantedRoute]] = {}

    # -- what they serve ------------------------------------------------------------------------------------------

    def want(self, line: str, routes: Sequence[WantedRoute]) -> None:
        """Tell them what a line wants served from now on; none takes it out of service."""
        self._wanted[line] = routes
        if not routes:
            del self._wanted[line]
        self.generation += 1
        self._state.want(Wanted(
            generation=self.generation, settings=self._settings,
            routes=tuple(r for routes in self._wanted.values() for r in routes),
        ))

    async def agreed(self, patience_s: float = 30.0) -> bool:
        """Whether every worker serves what is wanted, soon; one that is started later reads it anyway."""
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            said = [self._state.said(w.number) for w in self._workers if w.process is not None]
            if all(s is not None and s.generation >= self.generation for s in said):
                return True
            await asyncio.sleep(0.02)
        return False

    def waiting(self, bundle_id: str) -> int:
        """How many queries wait for the student of a bundle."""
        return sum(s.waiting.get(bundle_id, 0) for s in self._said())

    def answered(self, bundle_id: str) -> int:
        """How many queries the student of a bundle has answered."""
        return sum(s.answered.get(bundle_id, 0) for s in self._said())

    def _said(self) -> list[Said]:
        said = (self._state.said(w.number) for w in self._workers)
        return [s for s in said if s is not None]

    # -- their lives ----------------------------------------------------------------------------------------------

    async def keep(self, listener: socket.socket) -> None:
        """Keep all of them running on a bound socket that they share, until cancelled."""
        while True:
            now = time.monotonic()
            for worker in self._workers:
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
                    self._start(worker, listener, now)
            await asyncio.sleep(LOOK_S)

    async def stop(self) -> None:
        """Let them finish what they have begun, and end those that do not."""
        for worker in self._workers:
            if worker.process is not None:
                worker.process.send_signal(signal.SIGTERM)
        patience = time.monotonic() + self._settings.request_timeout_s + 2
        while time.monotonic() < patience and any(w.process and w.process.poll() is None for w in self._workers):
            await asyncio.sleep(0.05)
        for worker in self._workers:
            if worker.process is not None and worker.process.poll() is None:
                worker.process.kill()

    def _silent(self, worker: WorkerProcess, now: float) -> bool:
        age = self._state.age(worker.number, time.time())
        return now - worker.started > 2 * _SILENT_S and (age is None or age > _SILENT_S)

    def _bury(self, worker: WorkerProcess, now: float) -> None:
        if worker.process is not None:
            for path in self._state.metrics.glob(f"gauge_live*_{worker.process.pid}.db"):
                path.unlink()  # what is live only is gone; counters stay and add up
        worker.process = None
        worker.restarts += 1
        if now - worker.started > FORGIVEN_AFTER_S:
            worker.pause = _PAUSE_S
        worker.not_before = now + worker.pause
        worker.pause = min(LONGEST_PAUSE_S, 2 * worker.pause)
        self._state.forget(worker.number)

    def _start(self, worker: WorkerProcess, listener: socket.socket, now: float) -> None:
        self._heal()
        handle = listener.fileno()
        environment = {
            **os.environ, "PROMETHEUS_MULTIPROC_DIR": str(self._state.metrics), "TOKENIZERS_PARALLELISM": "false",
        }
        with (self._state.path / f"worker-{worker.number}.log").open("ab") as log:
            worker.process = subprocess.Popen(
                [
                    sys.executable, "-m", "serving.supervisor.worker", str(self._state.path), str(worker.number),
                    str(handle),
                ],
                pass_fds=[handle], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                preexec_fn=die_with_parent,
            )
        worker.started = now

    def status(self) -> list[dict[str, Any]]:
        """What operators see of each."""
        out = []
        for w in self._workers:
            said = self._state.said(w.number)
            out.append({
                "number": w.number, "pid": w.process.pid if w.process else None, "restarts": w.restarts,
                "generation": said.generation if said else None, "waiting": said.waiting if said else {},
            })
        return out

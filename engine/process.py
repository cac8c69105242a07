"""An engine as a process of its own, on loopback: how it is awaited, watched and ended, whatever it runs.

Only processes on this machine may reach an engine. The process and its children end with ours: by `close`, at exit, and
by a guard when we are killed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Final, Self

from engine.interface import EngineError
from engine.loopback import LOOPBACK, free_port, open_url
from engine.process_guard import Guard, die_with_parent
from engine.warm_start import ForkedProcess
from task.python_process import ended

KEEP_ALIVE_S: Final = 60  # an engine closes a connection that is idle for longer
NICE: Final = 5  # below the gateway, above training


class EngineProcess:
    """A running server; use it as a context manager. A kind of engine says how its process is started.

    Attributes:
        kind: What the messages call it.
        adapters: Names of the adapters that are loaded.
    """

    kind: ClassVar[str]

    def __init__(
        self, name: str, *, log: Path, timeout_s: float, port: int | None,
        started: Callable[[int], subprocess.Popen[bytes] | ForkedProcess],
    ) -> None:
        """Start it.

        Args:
            name: The name of its model.
            log: The file that it appends its output to.
            timeout_s: How long `wait_ready` waits.
            port: Where it is to listen on loopback; by default a free port.
            started: Starts the process that listens on a port.
        """
        self.name, self.log = name, log
        self.adapters: set[str] = set()
        self.port = port or free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._timeout = timeout_s
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = log.stat().st_size if log.exists() else 0  # what it holds already is of earlier processes
        self._process = started(self.port)
        self._guard = Guard(self._process.pid)
        atexit.register(self.close)

    def wait_ready(self, on_wait: Callable[[float], None] = lambda _: None) -> Self:
        """Wait until it answers.

        Args:
            on_wait: Called with the seconds waited, about ten times a second.

        Raises:
            EngineError: It died, or did not answer in `serving.start_timeout_s`.
        """
        started = time.monotonic()
        while True:
            waited = time.monotonic() - started
            on_wait(waited)
            if self._process.poll() is not None:
                raise EngineError(f"{self.kind} {self.ended}")
            if waited > self._timeout:
                self.close()
                said = see_log(self.log, start=self._log_start)
                raise EngineError(f"{self.kind} did not answer within {self._timeout:.0f} s; {said}")
            try:
                with open_url(f"{self.url}/health", timeout_s=2) as response:
                    if response.status == 200:
                        return self
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.1)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    @property
    def ended(self) -> str:
        """How the process ended, and the end of its log."""
        return f"{ended(self._process.poll())}; {see_log(self.log, start=self._log_start)}"

    @property
    def pid(self) -> int:
        """Its process id, which is also its process group."""
        return self._process.pid

    def close(self) -> None:
        """End the whole process group: SIGTERM, after ten seconds SIGKILL."""
        atexit.unregister(self.close)
        for signal_number, timeout in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal_number)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                continue
            if signal_number == signal.SIGTERM:  # its children may outlive it
                continue
            self._guard.dismiss()
            return

    def kill(self) -> None:
        """End the whole process group at once, by SIGKILL: for an engine that hangs."""
        atexit.unregister(self.close)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
            self._guard.dismiss()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def see_log(log: Path, *, start: int = 0, lines: int = 15) -> str:
    """Where an engine's log is, and in further lines how it ends, for a message.

    Args:
        start: Size of the log when the engine was started, in bytes.
    """
    with log.open("rb") as file:
        file.seek(start)
        written = file.read().decode(errors="replace").splitlines()[-lines:]
    return "\n".join([f"see {log}", *written]) if written else f"it wrote nothing into {log}"


def spawn(command: Sequence[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start an engine in a process group of its own, its output appended to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command], stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
            start_new_session=True, preexec_fn=lower_priority,
        )


def lower_priority() -> None:
    """Run below the gateway: on shared cores a cache hit must not wait for an engine that starts."""
    die_with_parent()
    os.nice(NICE)


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU."""
    return Path("/dev/nvidia0").exists()

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
                raise EngineError(f"{self.kind} ended with code {self._process.returncode}; {log_tail(self.log)}")
            if waited > self._timeout:
                self.close()
                raise EngineError(f"{self.kind} did not answer within {self._timeout:.0f} s; {log_tail(self.log)}")
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
    def code(self) -> int | None:
        """Exit code of the process, None while it runs."""
        return self._process.poll()

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


def log_tail(log: Path, lines: int = 15) -> str:
    """The last lines of an engine's log, for a message."""
    return f"the end of {log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


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

"""Engines start from a process that has imported vLLM already (a zygote, as Android and Chromium have).

On a CPU a small model's engine needs seconds for its weights and its first answer, but vLLM is imported three times
before: by its server, by its core and by its worker, each a new interpreter. The zygote imports it once, has one thread
and opens nothing; it forks the server, which forks the other two. So an engine that died is back in a fraction of the
time, and processes share the memory of what they imported.

What vLLM reads from its environment while it is imported is read by the zygote; everything else of an engine, down to
its environment, is its own. With a GPU engines are started as usual: CUDA does not survive a fork.

The other end of the pipe is the only thing that keeps a zygote alive. Its engines outlive it; who watches over them is
`serving.guard`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NamedTuple

SERVER = "vllm.entrypoints.openai.api_server"
# What the three processes import by and by; a name that a version of vLLM lacks costs nothing but time.
_PRELOADED = (
    SERVER, "vllm.v1.engine.async_llm", "vllm.v1.engine.core", "vllm.v1.core.sched.scheduler",
    "vllm.v1.executor.multiproc_executor", "vllm.v1.worker.cpu_worker", "vllm.v1.worker.cpu_model_runner",
    "vllm.model_executor.models.llama", "vllm.model_executor.layers.fused_moe",
    "vllm.renderers.hf", "model_hosting_container_standards.sagemaker", "transformers.models.llama.modeling_llama",
)
_ANSWER_S = 10.0


class ZygoteError(Exception):
    """It ended, or does not answer; its log says why."""


class Order(NamedTuple):
    """A server to start."""

    arguments: Sequence[str]
    environment: dict[str, str]
    log: str


class Zygote:
    """One such process; any thread may use it."""

    def __init__(self, environment: dict[str, str], log: Path, nice: int) -> None:
        """Start it, without waiting until it has imported anything; what it says goes to `log`."""
        here, there = Pipe()
        with there, log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "engine.warm_start", str(there.fileno()), str(nice)], stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
                pass_fds=[there.fileno()],
            )
        self._connection: Connection[Any, Any] = here
        self._lock = threading.Lock()
        self._warm = False

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def warm(self) -> bool:
        """Whether it has imported everything; raises `ZygoteError` where it ended before."""
        if not self._lock.acquire(blocking=False):  # another thread waits for it
            return self._warm
        try:
            if not self._warm and self._connection.poll():
                self._warm = self._said() == "warm"
            return self._warm
        finally:
            self._lock.release()

    def start(self, order: Order, patience_s: float) -> Forked:
        """Fork a server; raises `ZygoteError`, also where that takes longer than `patience_s`."""
        with self._lock:
            if not self._warm:
                self._warm = self._asked(None, patience_s) == "warm"
            return Forked(self, int(self._asked(order, _ANSWER_S)))

    def reap(self, pid: int) -> int | None:
        """How a server that has ended ended; None where the zygote ended as well."""
        with self._lock:
            try:
                return int(self._asked(pid, _ANSWER_S))
            except ZygoteError:
                return None

    def close(self) -> None:
        """End it; its servers go on."""
        with self._lock:
            self._connection.close()
            self._process.wait()

    def _asked(self, question: Order | int | None, patience_s: float) -> Any:
        try:
            if question is not None:
                self._connection.send(question)
            if not self._connection.poll(patience_s):
                self._process.kill()  # what it says later would answer another question
                raise ZygoteError(f"no answer within {patience_s:.0f} s")
        except OSError as error:
            raise ZygoteError(f"it ended with code {self._process.poll()}") from error
        return self._said()

    def _said(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.wait()
            raise ZygoteError(f"it ended with code {self._process.returncode}") from error


class Forked:
    """A process that the zygote forked; as much of `subprocess.Popen` as an engine needs.

    Attributes:
        returncode: None while it runs, and for ever where the zygote took the answer with it.
    """

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._zygote = zygote
        # The zygote reaps only who it is asked to, so the number is still this process's.
        self._handle: int | None = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Its exit code, None while it runs; 255 where nobody knows."""
        return self._look(0.0)

    def wait(self, timeout: float) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(SERVER, timeout)
        return code

    def _look(self, timeout: float) -> int | None:
        if self._handle is not None:
            waiting = select.poll()
            waiting.register(self._handle, select.POLLIN)
            if not waiting.poll(1000 * timeout):
                return None
            os.close(self._handle)
            self._handle = None
            code = self._zygote.reap(self.pid)
            self.returncode = 255 if code is None else code
        return self.returncode


@functools.cache
def possible() -> bool:
    """Whether this system says that a process has ended to whom it is no child: Linux from 5.3 on."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


_zygotes: dict[str, Zygote] = {}
_lock = threading.Lock()


def zygote(environment: dict[str, str], log: Path, nice: int) -> Zygote:
    """The zygote of this process for engines with these threads, which OpenMP reads when it is loaded.

    Started anew where it has ended.
    """
    threads = environment.get("OMP_NUM_THREADS", "")
    with _lock:
        found = _zygotes.get(threads)
        if found is None or not found.alive:
            found = _zygotes[threads] = Zygote(environment, log, nice)
        return found


# -- in the zygote -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Import, fork on demand, end with the pipe; a forked process leaves the loop and becomes the server."""
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    os.nice(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in _PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    titles: Any = None
    with contextlib.suppress(ImportError):
        titles = importlib.import_module("setproctitle")
        titles.getproctitle()  # it finds the place of titles now or never: the environment will be another
    _fork_workers()
    gc.collect()
    gc.freeze()  # a collector that looks at a page copies it
    with connection:
        order = _next(connection)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(order.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(order.environment, VLLM_WORKER_MULTIPROC_METHOD="fork")
    if titles is not None:  # vLLM's core and worker name themselves, its server does not
        titles.setproctitle(f"VLLM::APIServer {' '.join(order.arguments)}")
    sys.argv = [SERVER, *order.arguments]
    runpy.run_module(SERVER, run_name="__main__", alter_sys=True)


def _next(connection: Connection[Any, Any]) -> Order:
    """Wait for orders; returns in the forked process only."""
    connection.send("warm")
    while True:
        try:
            order = connection.recv()
        except EOFError:
            sys.exit()
        if isinstance(order, int):
            connection.send(os.waitstatus_to_exitcode(os.waitpid(order, 0)[1]))
            continue
        grouped, group = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.close(group)
            os.close(grouped)
            return Order(*order)
        os.close(group)
        os.read(grouped, 1)  # whoever hears of it may kill its group
        os.close(grouped)
        connection.send(pid)


def _fork_workers() -> None:
    """Let vLLM fork on a CPU too.

    It insists on new interpreters there so that each worker reads OpenMP settings of its own; ours are everybody's.
    """
    platform: Any = importlib.import_module("vllm.platforms.cpu").CpuPlatform
    settle = platform.check_and_update_config.__func__

    def settled(cls: Any, config: Any) -> None:
        settle(cls, config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    platform.check_and_update_config = classmethod(settled)


if __name__ == "__main__":
    main()

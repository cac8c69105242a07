"""Engines are forked from a process that has imported vLLM already: the zygote pattern of Android and Chromium.

On a CPU a small model's engine needs seconds for its weights and its first answer, but vLLM is imported three times
before that: by its server, its core and its worker, each a new interpreter. The warm-start process imports it once, has
one thread and opens no files; it forks the server, which forks the other two. So an engine that died is replaced in a
fraction of the time, and the processes share the memory of what they imported.

What vLLM reads from its environment during import is read by the warm-start process; everything else of an engine,
including its environment, is its own. With a GPU engines are started as usual: CUDA does not survive a fork.

A warm-start process ends when the other end of its pipe is closed. The engines that it forked outlive it;
`engine.process_guard` ends them.
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

from task.garbage import no_collection
from task.model_imports import import_transformers
from task.python_process import ended, python

SERVER = "vllm.entrypoints.openai.api_server"
# The modules that the three processes import at a start; a module that a version of vLLM lacks is skipped.
_PRELOADED = (
    SERVER, "vllm.v1.engine.async_llm", "vllm.v1.engine.core", "vllm.v1.core.sched.scheduler",
    "vllm.v1.executor.multiproc_executor", "vllm.v1.worker.cpu_worker", "vllm.v1.worker.cpu_model_runner",
    "vllm.model_executor.models.llama", "vllm.model_executor.layers.fused_moe",
    "vllm.renderers.hf", "model_hosting_container_standards.sagemaker", "transformers.models.llama.modeling_llama",
)
_ANSWER_S = 10.0
_READY = "ready"


class WarmStartError(Exception):
    """The process ended, or does not answer; its log says why."""


class LaunchRequest(NamedTuple):
    """A server to start."""

    arguments: Sequence[str]
    environment: dict[str, str]
    log: str


class WarmStartProcess:
    """A process that has imported vLLM and forks servers; any thread may use it."""

    def __init__(self, environment: dict[str, str], log: Path, *, nice: int) -> None:
        """Start it without waiting for its imports; its output is appended to `log`."""
        here, there = Pipe()
        with there, log.open("ab") as output:
            self._process = subprocess.Popen(
                python("-m", "engine.warm_start", str(there.fileno()), str(nice)), stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
                pass_fds=[there.fileno()],
            )
        self._connection: Connection[Any, Any] = here
        self._lock = threading.Lock()
        self._ready = False

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ready(self) -> bool:
        """Whether it has imported everything; raises `WarmStartError` where it ended before."""
        if not self._lock.acquire(blocking=False):  # another thread waits for its answer
            return self._ready
        try:
            if not self._ready and self._connection.poll():
                self._ready = self._receive() == _READY
            return self._ready
        finally:
            self._lock.release()

    def start(self, request: LaunchRequest, timeout_s: float) -> ForkedProcess:
        """Fork a server; raises `WarmStartError`, also where the imports take longer than `timeout_s`."""
        with self._lock:
            if not self._ready:
                self._ready = self._ask(None, timeout_s) == _READY
            return ForkedProcess(self, int(self._ask(request, _ANSWER_S)))

    def reap(self, pid: int) -> int | None:
        """The exit code of a server that has ended; None where this process ended as well."""
        with self._lock:
            try:
                return int(self._ask(pid, _ANSWER_S))
            except WarmStartError:
                return None

    def close(self) -> None:
        """End it; its servers keep running."""
        with self._lock:
            self._connection.close()
            self._process.wait()

    def _ask(self, message: LaunchRequest | int | None, timeout_s: float) -> Any:
        try:
            if message is not None:
                self._connection.send(message)
            if not self._connection.poll(timeout_s):
                self._process.kill()  # a late answer would be mistaken for the answer to the next message
                raise WarmStartError(f"no answer within {timeout_s:.0f} s")
        except OSError as error:
            raise WarmStartError(f"it {ended(self._process.poll())}") from error
        return self._receive()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.wait()
            raise WarmStartError(f"it {ended(self._process.returncode)}") from error


class ForkedProcess:
    """A server that the warm-start process forked; as much of `subprocess.Popen` as an engine needs.

    Attributes:
        returncode: None while it runs.
    """

    def __init__(self, parent: WarmStartProcess, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._parent = parent
        # The parent reaps a child only when it is asked to, so the id cannot belong to another process yet.
        self._handle: int | None = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Its exit code, None while it runs; 255 where the parent ended as well and the code is lost."""
        return self._exit_code(0.0)

    def wait(self, timeout: float) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        code = self._exit_code(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(SERVER, timeout)
        return code

    def _exit_code(self, timeout: float) -> int | None:
        if self._handle is not None:
            waiting = select.poll()
            waiting.register(self._handle, select.POLLIN)
            if not waiting.poll(1000 * timeout):
                return None
            os.close(self._handle)
            self._handle = None
            code = self._parent.reap(self.pid)
            self.returncode = 255 if code is None else code
        return self.returncode


@functools.cache
def supported() -> bool:
    """Whether the end of a process that is no child can be waited for (pidfd): Linux from 5.3 on."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


_processes: dict[str, WarmStartProcess] = {}
_lock = threading.Lock()


def warm_start_process(environment: dict[str, str], log: Path, *, nice: int) -> WarmStartProcess:
    """The warm-start process for engines with this number of OpenMP threads, which OpenMP reads when it is loaded.

    There is one for each number in this process; one that has ended is replaced.
    """
    threads = environment.get("OMP_NUM_THREADS", "")
    with _lock:
        found = _processes.get(threads)
        if found is None or not found.alive:
            found = _processes[threads] = WarmStartProcess(environment, log, nice=nice)
        return found


# -- in the warm-start process -----------------------------------------------------------------------------------------


def main() -> None:
    """Import, fork on demand, end when the pipe is closed; a forked process leaves the loop and becomes the server."""
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    os.nice(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with no_collection():
        with contextlib.suppress(ImportError):
            importlib.import_module("vllm")  # first: an installation that is broken says so at once
        import_transformers()  # before vLLM does, and without what none of our engines uses of it
        for name in _PRELOADED:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    titles: Any = None
    with contextlib.suppress(ImportError):
        titles = importlib.import_module("setproctitle")
        titles.getproctitle()  # locates the memory of the title, which fails once the environment has changed
    _fork_workers()
    gc.collect()
    gc.freeze()  # garbage collection would write to shared pages and so copy them
    with connection:
        request = _next_request(connection)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(request.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(request.environment, VLLM_WORKER_MULTIPROC_METHOD="fork")
    if titles is not None:  # vLLM's core and worker set their titles, its server does not
        titles.setproctitle(f"VLLM::APIServer {' '.join(request.arguments)}")
    sys.argv = [SERVER, *request.arguments]
    runpy.run_module(SERVER, run_name="__main__", alter_sys=True)


def _next_request(connection: Connection[Any, Any]) -> LaunchRequest:
    """Fork a process for each request; returns in the forked process only."""
    connection.send(_READY)
    while True:
        try:
            request = connection.recv()
        except EOFError:
            sys.exit()
        if isinstance(request, int):
            connection.send(os.waitstatus_to_exitcode(os.waitpid(request, 0)[1]))
            continue
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.close(write_end)
            os.close(read_end)
            return LaunchRequest(*request)
        os.close(write_end)
        os.read(read_end, 1)  # until the child leads its own process group: whoever gets its id may kill the group
        os.close(read_end)
        connection.send(pid)


def _fork_workers() -> None:
    """Let vLLM fork its core and worker on a CPU too.

    vLLM spawns new interpreters there, so that each worker reads OpenMP settings of its own; ours are the same for all.
    """
    platform: Any = importlib.import_module("vllm.platforms.cpu").CpuPlatform
    original = platform.check_and_update_config.__func__

    def check_and_update_config(cls: Any, config: Any) -> None:
        original(cls, config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    platform.check_and_update_config = classmethod(check_and_update_config)


if __name__ == "__main__":
    main()

"""The engine: vLLM as a process of its own, on loopback, with arguments that only we choose.

vLLM protects few of its paths, so nothing but the gateway on this machine may reach it. The process and its children
die with us: by `close`, at exit, and by a guard when we are killed. Without a GPU it is forked from a process that has
imported vLLM (`serving.zygote`).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.process_guard import Guard
from engine.warm_start import SERVER, Forked, Order, Zygote, ZygoteError, possible, zygote
from task.errors import ComponentError
from task.forms import is_token_classifier
from task.serving_settings import Adapters
from task.settings import EngineSettings

LOOPBACK = "127.0.0.1"
KEPT_OPEN_S = 60  # an idle connection; a client that keeps one for longer meets it closed
_ADAPTER_S = 60.0  # an adapter is some megabytes, but the engine may be busy
_NICE = 5  # below the gateway, above training


class EngineError(ComponentError):
    """The engine did not start or has died; the message ends with its log."""


def arguments(
    model: Path, name: str, form: str, settings: EngineSettings, port: int, adapters: Adapters | None = None
) -> list[str]:
    """The server's arguments; `form` (`Bundle.runs_as`) decides how it runs."""
    out = [
        "--model", str(model),
        "--host", LOOPBACK, "--port", str(port), "--served-model-name", name, "--dtype", settings.dtype,
        "--max-model-len", str(settings.max_model_len), "--max-num-seqs", str(settings.max_num_seqs),
        "--disable-uvicorn-access-log", "--no-enable-prefix-caching",
    ]
    if settings.enforce_eager:
        out.append("--enforce-eager")
    if is_token_classifier(form):
        out += ["--runner", "pooling", "--pooler-config", json.dumps({"task": "token_classify"})]
    else:
        out += ["--generation-config", "vllm"]
    if adapters is not None:
        out += [
            "--enable-lora", "--max-loras", str(adapters.at_once), "--max-lora-rank", str(adapters.rank),
            "--max-cpu-loras", str(max(adapters.at_once, adapters.loaded)),
        ]
    if _has_gpu():
        out += ["--gpu-memory-utilization", str(settings.gpu_memory_fraction)]
    return [*out, *settings.extra_args]


class Engine:
    """A running engine; use it as a context manager."""

    def __init__(
        self, model: Path, name: str, form: str, settings: EngineSettings, log: Path, port: int | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        """Start it.

        Args:
            adapters: How many it can add while it runs, and how large; None where it adds none.
        """
        self.name, self.form, self.log = name, form, log
        self.adapters: set[str] = set()
        self.port = port or free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._timeout = settings.start_timeout_s
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = _environment(settings)
        if adapters is not None:
            environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
        command = arguments(model, name, form, settings, self.port, adapters)
        self._process = self._started(command, environment, settings)
        self._guard = Guard(self._process.pid)
        atexit.register(self.close)

    def _started(
        self, command: list[str], environment: dict[str, str], settings: EngineSettings
    ) -> subprocess.Popen[bytes] | Forked:
        from_zygote = _zygote(settings, self.log)
        if from_zygote is None:
            with self.log.open("ab") as output:
                return subprocess.Popen(
                    [sys.executable, "-m", SERVER, *command], stdout=output, stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL, env=environment, start_new_session=True, preexec_fn=_beneath,
                )
        try:
            return from_zygote.start(Order(command, environment, str(self.log.resolve())), self._timeout)
        except ZygoteError as error:
            raise EngineError(f"the process that imports vLLM: {error}; {self._log_tail()}") from error

    def wait_ready(self, on_wait: Callable[[float], None] = lambda _: None) -> Self:
        """Wait until it answers.

        Args:
            on_wait: Told the seconds waited, about twice a second.

        Raises:
            EngineError: It died, or did not answer in `serving.start_timeout_s`.
        """
        started = time.monotonic()
        while True:
            waited = time.monotonic() - started
            on_wait(waited)
            if self._process.poll() is not None:
                raise EngineError(f"vLLM ended with code {self._process.returncode}; {self._log_tail()}")
            if waited > self._timeout:
                self.close()
                raise EngineError(f"vLLM did not answer within {self._timeout:.0f} s; {self._log_tail()}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2) as response:
                    if response.status == 200:
                        return self
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.5)

    def load_adapter(self, name: str, folder: Path) -> None:
        """Add an adapter, which is then asked for by its name.

        Raises:
            EngineError: vLLM refused it, or did not answer.
        """
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder.resolve())})
        self.adapters.add(name)

    def unload_adapter(self, name: str) -> None:
        """Take an adapter away; raises like `load_adapter`."""
        self._post("/v1/unload_lora_adapter", {"lora_name": name})
        self.adapters.discard(name)

    def _post(self, path: str, body: dict[str, str]) -> None:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_ADAPTER_S):
                pass
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:500]
            raise EngineError(f"vLLM refused {path} with {error.code}: {said}") from error
        except OSError as error:
            raise EngineError(f"vLLM did not answer {path}: {error}") from error

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    @property
    def code(self) -> int | None:
        """How the process ended, None while it runs."""
        return self._process.poll()

    @property
    def pid(self) -> int:
        """Its process id, which is also its process group."""
        return self._process.pid

    def close(self) -> None:
        """End the whole process group, politely and then not."""
        atexit.unregister(self.close)
        for sign, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, sign)
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
            if sign == signal.SIGTERM:  # children of its own may outlive it
                continue
            self._guard.dismiss()
            return

    def kill(self) -> None:
        """End the whole process group at once: for one that answers nothing, or whose time is over."""
        atexit.unregister(self.close)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
            self._guard.dismiss()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _log_tail(self, lines: int = 15) -> str:
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return f"the end of {self.log}:\n" + "\n".join(text)


def ready_to_start(settings: EngineSettings, log: Path) -> bool:
    """Whether an engine with these settings would start at once; what it waits for has begun.

    Raises:
        EngineError: vLLM cannot be imported.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    from_zygote = _zygote(settings, log)
    try:
        return from_zygote is None or from_zygote.warm()
    except ZygoteError as error:
        raise EngineError(f"the process that imports vLLM: {error}; see {log}") from error


def _zygote(settings: EngineSettings, log: Path) -> Zygote | None:
    if not settings.warm_start or _has_gpu() or not possible():
        return None
    return zygote(_environment(settings), log, _NICE)


def _environment(settings: EngineSettings) -> dict[str, str]:
    return {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(settings.kv_cache_gib))),
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        # Unbound: vLLM would tie every engine's threads to the same cores, and of two that share them, as when one
        # bundle follows another, the second starves. One core is left to the rest of the engine.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(settings.cpu_threads or max(1, (os.cpu_count() or 1) - 1)),
        "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEPT_OPEN_S),
    }


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as s:
        s.bind((LOOPBACK, 0))
        return int(s.getsockname()[1])


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists()


def _beneath() -> None:
    """Where gateway and engine share processors, a hit must not wait for an engine that starts."""
    die_with_parent()
    os.nice(_NICE)


def die_with_parent() -> None:
    """Ask Linux to send SIGTERM when the parent ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG

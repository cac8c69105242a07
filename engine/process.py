"""vLLM as a process of its own, on loopback, with arguments that only we choose.

vLLM protects few of its paths, so only processes on this machine may reach it. The process and its children end with
ours: by `close`, at exit, and by a guard when we are killed. Without a GPU it is forked from a process that has
imported vLLM (`engine.warm_start`).
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Self

from engine.interface import EngineError
from engine.loopback import LOOPBACK, free_port, open_url
from engine.process_guard import Guard, die_with_parent
from engine.warm_start import (
    SERVER,
    ForkedProcess,
    LaunchRequest,
    WarmStartError,
    WarmStartProcess,
    supported,
    warm_start_process,
)
from task.forms import is_token_classifier
from task.python_process import environment, python
from task.serving_settings import Adapters
from task.settings import EngineSettings

KEEP_ALIVE_S = 60  # vLLM closes a connection that is idle for longer
_ADAPTER_S = 60.0  # an adapter is some megabytes, but the engine may be busy
_LONGEST_TMPDIR = 107 - len("/") - 36  # vLLM's sockets are TMPDIR/UUID; Linux allows 107 bytes
_NICE = 5  # below the gateway, above training


def arguments(
    model: Path, *, name: str, runs_as: str, settings: EngineSettings, port: int, adapters: Adapters | None = None
) -> list[str]:
    """The server's arguments; `runs_as` is `Servable.runs_as`."""
    out = [
        "--model", str(model),
        "--host", LOOPBACK, "--port", str(port), "--served-model-name", name, "--dtype", settings.dtype,
        "--max-model-len", str(settings.max_model_len), "--max-num-seqs", str(settings.max_num_seqs),
        "--disable-uvicorn-access-log", "--no-enable-prefix-caching",
    ]
    if settings.enforce_eager:
        out.append("--enforce-eager")
    if is_token_classifier(runs_as):
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


class VllmProcess:
    """A running vLLM server; use it as a context manager.

    Attributes:
        adapters: Names of the adapters that are loaded.
    """

    def __init__(
        self, model: Path, *, name: str, runs_as: str, settings: EngineSettings, log: Path, port: int | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        """Start it; the arguments are those of `engine.interface.EngineKind.start`.

        Raises:
            EngineError: The process that imports vLLM has ended.
        """
        self.name, self.log = name, log
        self.adapters: set[str] = set()
        self.port = port or free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._timeout = settings.start_timeout_s
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = _environment(settings)
        if adapters is not None:
            environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
        command = arguments(
            model, name=name, runs_as=runs_as, settings=settings, port=self.port, adapters=adapters
        )
        self._process = self._started(command, environment, settings)
        self._guard = Guard(self._process.pid)
        atexit.register(self.close)

    def _started(
        self, command: list[str], environment: dict[str, str], settings: EngineSettings
    ) -> subprocess.Popen[bytes] | ForkedProcess:
        warm = _warm_start_process(settings, self.log)
        if warm is None:
            with self.log.open("ab") as output:
                return subprocess.Popen(
                    python("-m", SERVER, *command), stdout=output, stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL, env=environment, start_new_session=True, preexec_fn=_lower_priority,
                )
        try:
            return warm.start(LaunchRequest(command, environment, str(self.log.resolve())), self._timeout)
        except WarmStartError as error:
            raise EngineError(f"the process that imports vLLM: {error}; {self._log_tail()}") from error

    def wait_ready(self, on_wait: Callable[[float], None] = lambda _: None) -> Self:
        """Wait until it answers.

        Args:
            on_wait: Called with the seconds waited, about twice a second.

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
                with open_url(f"{self.url}/health", timeout_s=2) as response:
                    if response.status == 200:
                        return self
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.5)

    def load_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter; requests then select it by its name.

        Raises:
            EngineError: vLLM refused it, or did not answer.
        """
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder.resolve())})
        self.adapters.add(name)

    def unload_adapter(self, name: str) -> None:
        """Unload an adapter; raises like `load_adapter`."""
        self._post("/v1/unload_lora_adapter", {"lora_name": name})
        self.adapters.discard(name)

    def _post(self, path: str, body: dict[str, str]) -> None:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with open_url(request, timeout_s=_ADAPTER_S):
                pass
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")[:500]
            raise EngineError(f"vLLM refused {path} with {error.code}: {text}") from error
        except OSError as error:
            raise EngineError(f"vLLM did not answer {path}: {error}") from error

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

    def _log_tail(self, lines: int = 15) -> str:
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return f"the end of {self.log}:\n" + "\n".join(text)


def ready_to_start(settings: EngineSettings, log: Path) -> bool:
    """Whether an engine with these settings would start at once; starts the import that it would wait for.

    Raises:
        EngineError: vLLM cannot be imported.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    warm = _warm_start_process(settings, log)
    try:
        return warm is None or warm.ready()
    except WarmStartError as error:
        raise EngineError(f"the process that imports vLLM: {error}; see {log}") from error


def _warm_start_process(settings: EngineSettings, log: Path) -> WarmStartProcess | None:
    if not settings.warm_start or _has_gpu() or not supported():
        return None
    return warm_start_process(_environment(settings), log, nice=_NICE)


def _environment(settings: EngineSettings) -> dict[str, str]:
    found = environment()
    if len(os.fsencode(tempfile.gettempdir())) > _LONGEST_TMPDIR:
        found.setdefault("VLLM_RPC_BASE_PATH", "/tmp")  # noqa: S108 (vLLM's names are random)
    return found | {
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(settings.kv_cache_gib))),
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        # Not bound to cores: vLLM would bind every engine's threads to the same cores, and of two engines that run side
        # by side, as in a rollout, the second would starve. One core is left to the rest of the engine.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(settings.cpu_threads or max(1, (os.cpu_count() or 1) - 1)),
        "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_S),
    }


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists()


def _lower_priority() -> None:
    """Run below the gateway: on shared cores a cache hit must not wait for an engine that starts."""
    die_with_parent()
    os.nice(_NICE)

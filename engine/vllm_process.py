"""vLLM as an engine process, with arguments that only we choose.

vLLM protects few of its paths, so it listens on loopback only. Without a GPU it is forked from a process that has
imported vLLM (`engine.warm_start`).
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar

from engine.interface import EngineError
from engine.loopback import LOOPBACK, open_url
from engine.process import KEEP_ALIVE_S, NICE, EngineProcess, has_gpu, see_log, spawn
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
from task.processor import computed_in
from task.python_process import environment, python
from task.serving_settings import Adapters
from task.settings import EngineSettings

_ADAPTER_S = 60.0  # an adapter is some megabytes, but the engine may be busy
_LONGEST_TMPDIR = 107 - len("/") - 36  # vLLM's sockets are TMPDIR/UUID; Linux allows 107 bytes


def arguments(
    model: Path, *, name: str, runs_as: str, settings: EngineSettings, port: int, adapters: Adapters | None = None
) -> list[str]:
    """The server's arguments; `runs_as` is `Servable.runs_as`."""
    out = [
        "--model", str(model),
        "--host", LOOPBACK, "--port", str(port), "--served-model-name", name,
        "--dtype", computed_in(settings.dtype, gpu=has_gpu()), "--max-model-len", str(settings.max_model_len),
        "--max-num-seqs", str(settings.max_num_seqs),
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
    if has_gpu():
        out += ["--gpu-memory-utilization", str(settings.gpu_memory_fraction)]
    return [*out, *settings.extra_args]


class VllmProcess(EngineProcess):
    """A running vLLM server."""

    kind: ClassVar[str] = "vLLM"

    def __init__(
        self, model: Path, *, name: str, runs_as: str, settings: EngineSettings, log: Path, port: int | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        """Start it; the arguments are those of `engine.interface.EngineKind.start`.

        Raises:
            EngineError: The process that imports vLLM has ended.
        """
        variables = _environment(settings)
        if adapters is not None:
            variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"

        def started(port: int) -> subprocess.Popen[bytes] | ForkedProcess:
            return _started(arguments(
                model, name=name, runs_as=runs_as, settings=settings, port=port, adapters=adapters
            ), variables, settings, log)

        super().__init__(name, log=log, timeout_s=settings.start_timeout_s, port=port, started=started)

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


def _started(
    command: list[str], variables: dict[str, str], settings: EngineSettings, log: Path
) -> subprocess.Popen[bytes] | ForkedProcess:
    warm = _warm_start_process(settings, log)
    if warm is None:
        return spawn(python("-m", SERVER, *command), variables, log)
    try:
        return warm.start(LaunchRequest(command, variables, str(log.resolve())), settings.start_timeout_s)
    except WarmStartError as error:
        raise EngineError(f"the process that imports vLLM: {error}; {see_log(log)}") from error


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
        raise EngineError(f"the process that imports vLLM: {error}; {see_log(log)}") from error


def _warm_start_process(settings: EngineSettings, log: Path) -> WarmStartProcess | None:
    if not settings.warm_start or has_gpu() or not supported():
        return None
    return warm_start_process(_environment(settings), log, nice=NICE)


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

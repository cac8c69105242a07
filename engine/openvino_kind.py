"""OpenVINO as a kind of engine: its process, and the client that it shares with vLLM."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import ClassVar

from engine.client import VllmClient
from engine.interface import EngineError
from engine.process import EngineProcess, spawn
from engine.servable import Servable
from task.openvino_runtime import precision_of
from task.python_process import environment, python
from task.serving_settings import Adapters
from task.settings import EngineSettings
from task.tokenizer import FastTokenizer


class OpenVinoProcess(EngineProcess):
    """A running `engine.openvino_server`."""

    kind: ClassVar[str] = "OpenVINO"

    def __init__(
        self, model: Path, *, name: str, settings: EngineSettings, log: Path, port: int | None = None
    ) -> None:
        """Start it; the arguments are those of `engine.interface.EngineKind.start`."""
        options = [
            "--model", str(model), "--name", name, "--rows", str(settings.max_num_seqs),
            "--max-tokens", str(settings.max_model_len),
            "--precision", precision_of(settings.dtype),
        ]
        if settings.cpu_threads:
            options += ["--threads", str(settings.cpu_threads)]

        def started(port: int) -> subprocess.Popen[bytes]:
            return spawn(python("-m", "engine.openvino_server", *options, "--port", str(port)), environment(), log)

        super().__init__(name, log=log, timeout_s=settings.start_timeout_s, port=port, started=started)

    def load_adapter(self, name: str, folder: Path) -> None:
        """Raise `EngineError`: an exported model is complete."""
        raise EngineError(f"OpenVINO cannot add the adapter {name} ({folder}) to an exported model")

    def unload_adapter(self, name: str) -> None:
        """Raise `EngineError`: there is none."""
        raise EngineError(f"OpenVINO has no adapter {name}")


class OpenVinoKind:
    """See `engine.interface.EngineKind`."""

    def model_folder(self, servable: Servable) -> Path:
        """The exported model."""
        assert servable.openvino is not None  # `engine.kind` chooses this kind only where there is one
        return servable.openvino

    def ready_to_start(self, _settings: EngineSettings, _log: Path) -> bool:
        """Yes: a process is ready in a second or two."""
        return True

    def start(
        self, model: Path, *, name: str, runs_as: str, settings: EngineSettings, log: Path, port: int | None = None,
        adapters: Adapters | None = None,
    ) -> OpenVinoProcess:
        """Start a process; `model` is an exported one (`task.openvino_runtime`)."""
        if runs_as != "read" or adapters is not None:
            raise EngineError(f"OpenVINO serves merged students of the form `read` only, not `{runs_as}` with adapters")
        return OpenVinoProcess(model, name=name, settings=settings, log=log, port=port)

    def connect(
        self, servable: Servable, url: str, tokenizer: FastTokenizer, *, timeout_s: float | None = None,
        max_tokens: int | None = None,
    ) -> VllmClient:
        """A client of a process; it speaks vLLM's pooling API."""
        return VllmClient.of(servable, url, tokenizer, timeout_s=timeout_s, max_tokens=max_tokens)

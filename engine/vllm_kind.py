"""vLLM as a kind of engine: its process and its client."""

from __future__ import annotations

from pathlib import Path

from engine.client import VllmClient
from engine.servable import Servable
from engine.vllm_process import VllmProcess, ready_to_start
from task.serving_settings import Adapters
from task.settings import EngineSettings
from task.tokenizer import FastTokenizer


class VllmKind:
    """See `engine.interface.EngineKind`."""

    def model_folder(self, servable: Servable) -> Path:
        """The checkpoint."""
        return servable.model

    def ready_to_start(self, settings: EngineSettings, log: Path) -> bool:
        """Whether an engine would start at once: the warm-start process, if one is used, has imported vLLM."""
        return ready_to_start(settings, log)

    def start(
        self, model: Path, *, name: str, runs_as: str, settings: EngineSettings, log: Path, port: int | None = None,
        adapters: Adapters | None = None,
    ) -> VllmProcess:
        """Start a vLLM process."""
        return VllmProcess(model, name=name, runs_as=runs_as, settings=settings, log=log, port=port, adapters=adapters)

    def connect(
        self, servable: Servable, url: str, tokenizer: FastTokenizer, *, timeout_s: float | None = None,
        max_tokens: int | None = None,
    ) -> VllmClient:
        """A client of a vLLM process."""
        return VllmClient.of(servable, url, tokenizer, timeout_s=timeout_s, max_tokens=max_tokens)

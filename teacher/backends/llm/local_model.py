"""The `vllm` backend's endpoint: a local model behind serving's engine, started when the first call needs it.

The address of the engine changes with every start and its model does not, so the ledger's keys name the model by the
hash of its files and of what else decides its answers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.interface import Engine
from engine.kind import engine_kind
from task.files import sha256_file, sha256_json
from task.settings import OpenAI
from task.spec import Task

# Every prompt begins with the same instructions; and a small model left free to indent never stops.
_ARGUMENTS = (
    "--enable-prefix-caching",
    "--structured-outputs-config", json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
)


class LocalTeacher:
    """A teacher model on this machine; a context manager that ends the engine.

    Args:
        fetch: Gives the folder of a model by name.
        log: Where vLLM writes.
    """

    def __init__(self, task: Task, fetch: Callable[[str], Path], log: Path) -> None:
        self._task, self._log = task, log
        self._model = fetch(task.teacher.vllm.model)
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._engine is not None:
            self._engine.close()

    def settings(self) -> OpenAI:
        """The endpoint's settings with an address that says which model answers, and no price."""
        own = self._task.teacher.vllm
        digest = sha256_json([model_digest(self._model), own.dtype, own.extra_args])
        return self._task.teacher.openai.model_copy(update={
            "base_url": f"vllm:{digest}", "model": f"teacher@{digest[:12]}",
            "price_input_per_million": None, "price_output_per_million": None, "budget": None,
        })

    def url(self) -> str:
        """The base URL; starts the engine when it is first asked for, and blocks until it answers."""
        with self._lock:
            if self._engine is None:
                own = self._task.teacher.vllm
                settings = own.model_copy(update={"extra_args": (*_ARGUMENTS, *own.extra_args)})
                self._engine = engine_kind(settings).start(
                    self._model, name=self.settings().model, runs_as="json", settings=settings, log=self._log
                )
                self._engine.wait_ready()
            return self._engine.url + "/v1"


def model_digest(folder: Path) -> str:
    """SHA-256 over what decides a model's answers: weights, tokenizer, configuration and template."""
    names = [p for p in sorted(folder.iterdir()) if p.suffix in {".safetensors", ".json", ".jinja", ".model"}]
    return sha256_json({p.name: sha256_file(p) for p in names})

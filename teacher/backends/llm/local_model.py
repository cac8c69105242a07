"""The endpoint of the `vllm` backend: a local model in a vLLM engine, started by the first call.

The address of the engine changes with every start, so the keys of requests contain, in its place, a hash of the model's
files and of the settings that decide its answers.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.interface import Engine
from engine.vllm_kind import VllmKind
from task.files import sha256_file, sha256_json
from task.settings import OpenAI
from task.spec import Task

# All prompts share a prefix, the instructions, and neighbours share more (`online.by_prefix`). A small model that may
# emit whitespace does not stop emitting it.
_ARGUMENTS = (
    "--enable-prefix-caching",
    "--structured-outputs-config", json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
)


class LocalTeacher:
    """A teacher model on this machine; a context manager that stops the engine.

    Args:
        fetch: Returns the folder of a model by name.
        log: File for the output of vLLM.
        engines: How many engines share the processor where there is no GPU.
    """

    def __init__(self, task: Task, fetch: Callable[[str], Path], log: Path, *, engines: int = 1) -> None:
        self._task, self._log, self._engines = task, log, engines
        self._model = fetch(task.teacher.vllm.model)
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._engine is not None:
            self._engine.close()

    def settings(self) -> OpenAI:
        """The endpoint's settings, with a pseudo-address that identifies the model, and without a price."""
        own = self._task.teacher.vllm
        digest = sha256_json([model_digest(self._model), own.dtype, own.extra_args])
        return self._task.teacher.openai.model_copy(update={
            "base_url": f"vllm:{digest}", "model": f"teacher@{digest[:12]}",
            "price_input_per_million": None, "price_output_per_million": None, "budget": None,
        })

    def url(self) -> str:
        """The base URL; the first call starts the engine and blocks until it is ready."""
        with self._lock:
            if self._engine is None:
                own = self._task.teacher.vllm
                settings = own.model_copy(update={"extra_args": (*_ARGUMENTS, *own.extra_args), **self._threads()})
                self._engine = VllmKind().start(
                    self._model, name=self.settings().model, runs_as="json", settings=settings, log=self._log
                )
                self._engine.wait_ready()
            return self._engine.url + "/v1"

    def _threads(self) -> dict[str, int]:
        """An engine's share of the cores; with one engine, or a number in the settings, those decide."""
        if self._engines == 1 or self._task.teacher.vllm.cpu_threads is not None:
            return {}
        return {"cpu_threads": max(1, ((os.cpu_count() or 1) - 1) // self._engines)}


def model_digest(folder: Path) -> str:
    """SHA-256 over the files that decide a model's answers: weights, tokenizer, configuration and template."""
    return sha256_json({p.name: sha256_file(p) for p in _files(folder)})


def model_mark(folder: Path) -> str:
    """What changes with `model_digest`, without reading the weights: of these it is their size and time of change."""
    marks: dict[str, object] = {}
    for path in _files(folder):
        status = path.stat()
        weights = path.suffix == ".safetensors"
        marks[path.name] = [status.st_size, status.st_mtime_ns] if weights else sha256_file(path)
    return sha256_json(marks)


def _files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.suffix in {".safetensors", ".json", ".jinja", ".model"}]

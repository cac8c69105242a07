"""The interface of every kind of engine; `engine.kind` chooses the kind that the settings name.

The watchdog, the pool, the local teacher and the gateway depend on these protocols only, not on an implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

from engine.servable import Servable
from task.errors import ComponentError
from task.forms import Decoded
from task.serving_settings import Adapters
from task.settings import EngineSettings
from task.tokenizer import FastTokenizer


class EngineError(ComponentError):
    """The engine did not start or has died; the message ends with its log."""


class EngineUnavailableError(RuntimeError):
    """The engine did not answer, or its answer cannot be used."""


class Engine(Protocol):
    """A running engine, in a process or several; a context manager that closes it."""

    @property
    def name(self) -> str:
        """The name of the model that it was started with."""

    @property
    def url(self) -> str:
        """Base URL of its OpenAI-compatible API."""

    @property
    def alive(self) -> bool:
        """Whether its process runs."""

    @property
    def ended(self) -> str:
        """How its process ended, and the end of its log, as text."""

    @property
    def pid(self) -> int:
        """Process id, which is also the process group."""

    @property
    def adapters(self) -> set[str]:
        """Names of the LoRA adapters that are loaded."""

    def wait_ready(self) -> Self:
        """Block until it answers; raises `EngineError` where it ends, or takes longer than `start_timeout_s`."""

    def load_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter; requests then select it by its name. Raises `EngineError`."""

    def unload_adapter(self, name: str) -> None:
        """Unload an adapter; raises `EngineError`."""

    def close(self) -> None:
        """Stop it, with time to finish."""

    def kill(self) -> None:
        """Kill it at once."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class StudentClient(Protocol):
    """Asks a student for labels; belongs to one event loop."""

    async def label(self, queries: Sequence[str]) -> list[Decoded]:
        """Labels of queries, in order; raises `EngineUnavailableError`."""

    def prompt_tokens(self, query: str) -> int:
        """How many tokens the student reads for a query."""

    async def close(self) -> None:
        """Close the connections."""


class EngineKind(Protocol):
    """A kind of engine: starts engines and makes clients for them."""

    def model_folder(self, servable: Servable) -> Path:
        """The folder that an engine of this kind loads."""

    def ready_to_start(self, settings: EngineSettings, log: Path) -> bool:
        """Whether `start` would return at once; prepares what it would wait for. Raises `EngineError`."""

    def start(
        self, model: Path, *, name: str, runs_as: str, settings: EngineSettings, log: Path, port: int | None = None,
        adapters: Adapters | None = None,
    ) -> Engine:
        """Start an engine without waiting until it answers.

        Args:
            model: The folder that it loads.
            name: The name that clients ask for.
            runs_as: See `Servable.runs_as`.
            log: The file that it appends its output to.
            port: Where it listens on loopback; by default a free port.
            adapters: How many adapters it can load while it runs, and how large; None where it loads none.

        Raises:
            EngineError: It cannot be started.
        """

    def connect(
        self, servable: Servable, url: str, tokenizer: FastTokenizer, *, timeout_s: float | None = None,
        max_tokens: int | None = None,
    ) -> StudentClient:
        """A client of the engine at `url`, for one servable.

        Args:
            timeout_s: Of a request; by default `serving.request_timeout_s` of the task.
            max_tokens: The engine's limit for prompt and answer together; by default `serving.max_model_len`.
        """



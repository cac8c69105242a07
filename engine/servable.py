"""What an engine needs to know about the student that it serves; a bundle of `serving` is a servable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from task.codec import Codec
from task.labels import Example
from task.spec import Task


class Servable(Protocol):
    """A trained student that an engine can serve."""

    @property
    def id(self) -> str:
        """Identifies the servable; counts of answers are kept by it."""

    @property
    def model(self) -> Path:
        """The folder that the engine loads."""

    @property
    def openvino(self) -> Path | None:
        """The folder of the same model, exported for OpenVINO; None where there is none."""

    @property
    def engine_name(self) -> str:
        """Name of the weights: servables that have it in common can share an engine."""

    @property
    def model_name(self) -> str:
        """The name to ask the engine for: that of the merged model, or of the adapter."""

    @property
    def runs_as(self) -> str:
        """How the engine runs it: `read` (a token classifier), `prompt_logprobs`, `write`, `json` (a causal LM)."""

    @property
    def adapter(self) -> Path | None:
        """The folder of a LoRA adapter for `model`; None where the student was merged."""

    @property
    def head(self) -> tuple[int, ...] | None:
        """Token ids of the columns of the model's scores, where tasks share it; None where they are the codec's."""

    @property
    def task(self) -> Task:
        """The task that it labels."""

    @property
    def codec(self) -> Codec:
        """The codec that it was trained with."""


@dataclass(frozen=True, slots=True)
class StartupQueries:
    """Queries for an engine's warm-up and check, before it serves clients.

    Held in memory: a restart of the engine must not depend on files on disk, which may have changed.

    Attributes:
        warm_up: Queries of all lengths: the first ones are slow.
        reference: Queries with the labels that the trained student gave them outside of any engine.
    """

    warm_up: Sequence[str]
    reference: Sequence[Example]

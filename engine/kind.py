"""Which kind of engine the settings ask for."""

from __future__ import annotations

from engine.interface import EngineKind
from engine.vllm_kind import VllmKind
from task.settings import EngineSettings


def engine_kind(_settings: EngineSettings) -> EngineKind:
    """The kind of engine to start and to connect to; another kind is a file like `engine.vllm_kind` and a line here."""
    return VllmKind()

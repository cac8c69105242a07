"""Which kind of engine serves a student."""

from __future__ import annotations

from typing import Final

from engine.interface import EngineKind
from engine.openvino_kind import OpenVinoKind
from engine.process import has_gpu
from engine.servable import Servable
from engine.vllm_kind import VllmKind
from task.errors import InputError
from task.serving_settings import Serving

_KINDS: Final[dict[str, EngineKind]] = {"vllm": VllmKind(), "openvino": OpenVinoKind()}
"""Another kind is a file like `engine.openvino_kind`, a line here, and its name in `task.serving_settings.Serving`."""


def kind_name(servable: Servable, settings: Serving) -> str:
    """`vllm` or `openvino`: as the settings say; with `auto` OpenVINO where there is no GPU and the bundle allows it.

    Raises:
        InputError: The settings ask for OpenVINO, for which the bundle has no model.
    """
    if settings.engine == "auto":
        return "vllm" if servable.openvino is None or has_gpu() else "openvino"
    if settings.engine == "openvino" and servable.openvino is None:
        raise InputError(
            "the bundle has no model for this engine", field="serving.engine", found="openvino", expected="vllm",
            fix="Make the bundle again with serving.engine: openvino, which adds the exported model",
        )
    return settings.engine


def engine_kind(servable: Servable, settings: Serving) -> EngineKind:
    """The kind of engine to start and to connect to; raises like `kind_name`."""
    return _KINDS[kind_name(servable, settings)]

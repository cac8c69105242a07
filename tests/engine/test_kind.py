"""Which engine serves a student: by the settings, the bundle and the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine import kind
from engine.interface import EngineError
from engine.kind import engine_kind, kind_name
from engine.openvino_kind import OpenVinoKind
from engine.vllm_kind import VllmKind
from task.codec import Codec
from task.errors import InputError
from task.serving_settings import Serving
from task.spec import Task
from tests.conftest import make_task


@dataclass
class Student:
    """What the choice depends on, and the rest of `engine.servable.Servable`."""

    openvino: Path | None
    task: Task
    codec: Codec
    model: Path = Path("model")
    adapter: Path | None = None
    model_name: str = "student"
    engine_name: str = "student"
    runs_as: str = "read"
    head: Sequence[int] | None = None


@pytest.mark.parametrize(("engine", "exported", "gpu", "name"), [
    ("auto", True, False, "openvino"), ("auto", False, False, "vllm"), ("auto", True, True, "vllm"),
    ("vllm", True, False, "vllm"), ("openvino", True, False, "openvino"), ("openvino", True, True, "openvino"),
])
def test_the_engine_follows_from_settings_bundle_and_machine(
    engine: str, exported: bool, gpu: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "has_gpu", lambda: gpu)
    task = make_task()
    student = Student(Path("openvino") if exported else None, task, Codec.__new__(Codec))
    settings = Serving.model_validate({"engine": engine})
    assert kind_name(student, settings) == name
    assert type(engine_kind(student, settings)) is {"vllm": VllmKind, "openvino": OpenVinoKind}[name]


def test_a_bundle_without_the_model_says_what_to_do() -> None:
    student = Student(None, make_task(), Codec.__new__(Codec))
    with pytest.raises(InputError, match=r"serving\.engine.*Make the bundle again with serving\.engine: openvino"):
        kind_name(student, Serving(engine="openvino"))


@pytest.mark.parametrize("serving", [
    {"engine": "openvino", "weights": "adapter"}, {"engine": "openvino", "reader": "prompt_logprobs"},
    {"engine": "openvino", "quantization": "fp8"},
])
def test_a_task_that_openvino_cannot_serve_is_refused(serving: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="openvino"):
        make_task(serving=serving, student={"softmax": "vocabulary"} if "reader" in serving else {})
    with pytest.raises(ValueError, match="openvino"):
        make_task(serving={"engine": "openvino"}, student={"form": "write"})


def test_forms_that_generate_are_not_started(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="merged students of the form `read` only"):
        OpenVinoKind().start(tmp_path, name="s", runs_as="write", settings=Serving(), log=tmp_path / "log")

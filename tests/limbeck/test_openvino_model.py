"""In how many bits the student is exported for OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from limbeck.artefacts import RunFolder
from limbeck.inputs import Inputs
from limbeck.openvino_model import how_to_agree, make
from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from limbeck.stages.bundle import STAGE
from student.inference import predict
from student.merging.token_classifier import export_classifier
from student.model import load_base
from task.codec import Codec
from task.errors import InputWarning
from task.files import write_json
from task.labels import Example, Label
from task.openvino_runtime import TokenClassifier
from task.tokenizer import FastTokenizer
from task.training_row import TrainingRow
from teacher.curriculum.rows import Curriculum, write
from tests.conftest import make_task

QUERIES = ["oat milk", "verdant machine oat milk 1l", "cheap organic milk"]


def exported(
    folder: Path, base: Path, tokenizer: FastTokenizer, *, reference: list[Example],
    quantization: Literal["auto", "int8"] = "auto",
) -> tuple[object, object]:
    """Bits and agreement of an export of a tiny student."""
    task = make_task(serving={"engine": "openvino", "quantization": quantization})
    run = Run(task, RunFolder(folder / "run"), Inputs(task, folder / "sample"), ProgressDisplay())
    rows = [TrainingRow(Example(q, (Label("product", "milk", q.index("milk"), q.index("milk") + 4),))) for q in QUERIES]
    write(Curriculum(rows[:2], rows[2:], {}), task, run.files.curriculum)
    write_json(run.files.curriculum / "manifest.json", {})
    codec = Codec.compile(task, [r.example for r in rows], tokenizer, "read")
    export_classifier(base, codec.symbol_ids, folder / "classifier")
    figures = make(run, codec, classifier=folder / "classifier", out=folder / "out", reference=reference)
    assert figures is not None
    TokenClassifier(folder / "out", precision="float32")
    return figures["bits"], figures["agreement"]


@pytest.mark.parametrize("reference", [[], [Example(q) for q in QUERIES]])
def test_without_labels_to_compare_eight_bits_are_not_chosen(
    tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer, reference: list[Example]
) -> None:
    """Two answers without labels agree, and show nothing."""
    assert exported(tmp_path, tiny_llama, tokenizer, reference=reference) == (16, None)


def test_eight_bits_that_are_asked_for_need_no_comparison(
    tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer
) -> None:
    assert exported(tmp_path, tiny_llama, tokenizer, reference=[], quantization="int8") == (8, None)


def test_eight_bits_are_chosen_where_enough_labels_show_that_nothing_changes(
    tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer
) -> None:
    """An answer that 8 bits keep, too few times and often enough: a share of at least 99 % takes 300 labels to show."""
    codec = Codec.compile(make_task(), [], tokenizer, "read")
    model = load_base(tiny_llama, torch.float32)
    said = predict(model, codec, tokenizer, make_task(), [Example(q) for q in QUERIES])

    def bits_and_agreement(name: str, rows: list[Example], quantization: Literal["auto", "int8"] = "auto") -> object:
        (tmp_path / name).mkdir()
        return exported(tmp_path / name, tiny_llama, tokenizer, reference=rows, quantization=quantization)

    kept = next(
        x for i, x in enumerate(said) if x.labels and bits_and_agreement(f"{i}", [x], "int8") == (8, 1.0)
    )
    enough = -(-300 // len(kept.labels))
    assert bits_and_agreement("few", [kept] * (enough - 1)) == (16, 1.0)
    assert bits_and_agreement("many", [kept] * enough) == (8, 1.0)


def test_eight_bits_that_change_the_labels_are_not_chosen(
    tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer
) -> None:
    wrong = [Example(q, (Label("mark", "kosher"),)) for q in QUERIES] * 100
    with pytest.warns(InputWarning, match=r"in 16 bits the exported student keeps \d+\.\d% of the merged student's 300 "
                      r"labels .*Set serving.dtype: float32 \(slower\) or "
                      r"serving.engine: vllm$"):
        bits, agreement = exported(tmp_path, tiny_llama, tokenizer, reference=wrong)
    assert bits == 16
    assert isinstance(agreement, float)
    assert agreement < 0.99


@pytest.mark.parametrize(("settings", "eight_bits", "expected"), [
    ({}, True, "Set serving.quantization: none or serving.engine: vllm"),
    ({}, False, "Set serving.dtype: float32 (slower) or serving.engine: vllm"),
    ({}, None, "Set serving.quantization: none or serving.dtype: float32 (slower) or serving.engine: vllm"),
    ({"engine": "vllm", "quantization": "int8"}, None,
     "Set serving.quantization: none or serving.dtype: float32 (slower)"),
    ({"engine": "vllm", "quantization": "none", "dtype": "float32"}, None,
     "Lower gates.engine_label_agreement if you accept the loss"),
])
def test_an_engine_that_loses_labels_is_told_what_to_change(
    settings: dict[str, str], eight_bits: bool | None, expected: str
) -> None:
    assert how_to_agree(make_task(serving=settings).serving, eight_bits=eight_bits) == expected


def test_the_bundle_stage_says_how_many_labels_its_engine_keeps() -> None:
    said = STAGE.headline({
        "id": "a1", "head_queries": 40, "openvino": {"bits": 16, "agreement": 0.920635, "compared": 61}
    })
    assert said == "bundle a1, 40 head queries cached, in 16 bits it keeps 92.1% of 61 labels of the merged student"
    nothing = {"id": "a1", "head_queries": 40, "openvino": {"bits": 16, "agreement": None, "compared": 0}}
    assert STAGE.headline(nothing) == STAGE.headline({"id": "a1", "head_queries": 40})

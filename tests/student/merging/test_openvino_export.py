"""A student exported for OpenVINO computes what transformers computes, at every shape, in 16 bits and in 8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from student.merging import openvino_int8
from student.merging.openvino_export import ExportError, export
from student.merging.openvino_int8 import quantise, weight_limit
from student.merging.token_classifier import export_classifier
from task.openvino_runtime import LENGTHS, TokenClassifier, import_openvino

Scores = list[npt.NDArray[np.float32]]
SYMBOLS = list(range(5, 45))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    folder = tmp_path_factory.mktemp("classifier") / "model"
    export_classifier(tiny_llama, SYMBOLS, folder)
    return folder


def prompts(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(5, 500, rng.integers(1, longest + 1)).tolist() for _ in range(count)]


def reference(classifier: Path, asked: Sequence[Sequence[int]]) -> Scores:
    model: Any = AutoModelForSequenceClassification.from_pretrained(classifier, dtype=torch.float32).eval()
    with torch.inference_mode():
        return [model.score(model.model(torch.tensor([p])).last_hidden_state)[0].numpy() for p in asked]


def error(found: Scores, exact: Scores) -> float:
    """The largest difference of scores, relative to their size."""
    assert [x.shape for x in found] == [x.shape for x in exact]
    difference = np.concatenate(found) - np.concatenate(exact)
    return float(np.abs(difference).max() / np.abs(np.concatenate(exact)).max())


@pytest.mark.parametrize("fixed", [False, True])
def test_scores_are_those_of_transformers_at_every_length_and_batch(
    classifier: Path, tmp_path: Path, fixed: bool
) -> None:
    export(classifier, tmp_path / "exported")
    model = TokenClassifier(tmp_path / "exported", precision="float32", fixed=fixed, threads=1)
    single = [[*range(7, 7 + n)] for n in (1, LENGTHS[0], LENGTHS[0] + 1, LENGTHS[-1], LENGTHS[-1] + 1, 70)]
    batch = prompts(9, 40)
    exact = reference(classifier, [*single, *batch])
    alone = [model.scores([p])[0] for p in single]
    assert error([*alone, *model.scores(batch)], exact) < 2e-3  # the weights are in 16 bits
    assert error([model.scores([p])[0] for p in single], alone) < 1e-6  # whatever was computed in between
    assert model.scores([]) == []


@pytest.mark.parametrize("limit", sorted({weight_limit(), 63}))
def test_8_bits_change_scores_a_little_and_halve_the_matrices(
    classifier: Path, tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_int8, "weight_limit", lambda: limit)
    asked = prompts(24, 30)
    figures = export(classifier, tmp_path / "exported", prompts=asked)["matrices"]
    assert figures["in_8_bits"] + figures["in_16_bits"] == 14  # seven in each of two layers; the scores' one stays
    assert figures["in_8_bits"] > 7
    model = TokenClassifier(tmp_path / "exported", precision="float32", threads=1)
    wrong = error(model.scores(asked), reference(classifier, asked))
    assert 1e-5 < wrong < 0.06 * 127 / limit  # 7 bits, for want of VNNI, round twice as much; saturated it is 0.17
    stored = (tmp_path / "exported" / "model.bin").stat().st_size
    export(classifier, tmp_path / "halves")
    assert stored < (tmp_path / "halves" / "model.bin").stat().st_size


@pytest.mark.parametrize(("line", "limit"), [
    ("flags : fma avx2", 63), ("flags : fma avx2 avx_vnni", 127), ("flags : avx512f avx512_vnni", 127),
    ("flags : avx2 amx_int8", 127), ("", 127),
])
def test_weights_leave_room_where_sums_of_two_products_saturate(
    line: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_int8, "cpuinfo", lambda _field: line)
    assert weight_limit.__wrapped__() == limit


def test_a_matrix_with_outliers_stays_in_16_bits() -> None:
    """One token's activations are five thousand times those of the others."""
    rng = np.random.default_rng(0)
    table, weights = (rng.normal(size=(n, 64)).astype(np.float32) for n in (50, 96))
    asked = [[0, 1, 2, 3], [4, 5, 6]]
    assert quantise(product(table, weights), asked) == {"in_8_bits": 1, "in_16_bits": 0}
    table[0] *= 5_000
    assert quantise(product(table, weights), asked) == {"in_8_bits": 0, "in_16_bits": 1}


def product(table: npt.NDArray[np.float32], weights: npt.NDArray[np.float32]) -> Any:
    """Token ids, looked up and multiplied by a matrix."""
    ov = import_openvino()
    op = ov.opset13
    ids = op.parameter([-1, -1], ov.Type.i64)
    looked_up = op.gather(op.constant(table), ids, op.constant(0))
    return ov.Model([op.result(op.matmul(looked_up, op.constant(weights), False, True))], [ids])


def test_what_cannot_be_exported_is_said(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_classifier(tiny_llama, SYMBOLS, tmp_path / "classifier")

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no rule for aten::diff\nfound")

    monkeypatch.setattr(import_openvino(), "convert_model", refuse)
    with pytest.raises(ExportError, match="LlamaForSequenceClassification: found"):
        export(tmp_path / "classifier", tmp_path / "exported")
    assert not (tmp_path / "exported").exists()

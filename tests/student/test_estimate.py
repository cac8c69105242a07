"""What a training run is said to take."""

from __future__ import annotations

from typing import Any

import pytest

from student.estimate import GIB, KNOWN, training_memory
from tests.conftest import make_task

SHAPE = KNOWN["SmolLM2-135M-Instruct"]


def weights(**student: Any) -> float:
    return training_memory(SHAPE, make_task(student=student).student, 100)["weights"] * GIB


@pytest.mark.parametrize("student", [
    {"use_gpu": True}, {"gradient_checkpointing": True}, {"lora": {"dora": True}}, {"lora": {"dropout": 0.1}},
    {"peft": {"peft_type": "LOHA"}},
])
def test_weights_lie_there_once_where_peft_computes(student: dict[str, Any]) -> None:
    assert weights(**student) == pytest.approx(2 * SHAPE.parameters)


def test_weights_are_laid_out_twice_more_where_rows_are_packed() -> None:
    assert weights() == pytest.approx(2 * SHAPE.parameters + 4 * SHAPE.body)
    assert weights(dtype="float32") == pytest.approx(4 * SHAPE.parameters)

"""A training row travels to a worker as JSON and loses nothing."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from task.labels import Doubt, Example, Label
from task.training_row import TrainingRow

UNIT = st.floats(0.0, 1.0)


@given(UNIT, UNIT, st.sampled_from(["head", "torso", "tail"]))
def test_json_keeps_every_value_to_the_bit(confidence: float, difficulty: float, stratum: str) -> None:
    example = Example("oat milk", (Label("product", "oat milk", 0, 8, 0.5), Label("aisle", "dairy")), 3)
    row = TrainingRow(
        example, confidence=confidence, cluster="oat", difficulty=difficulty, stratum=stratum,
        doubts=(Doubt("product", 0, 8), Doubt("aisle")),
    )
    assert TrainingRow.from_json(json.loads(json.dumps(row.to_json()))) == row


def test_a_job_of_an_earlier_version_is_read() -> None:
    old = {"query": "tea", "count": 1, "labels": [], "confidence": 0.25, "doubts": []}
    assert TrainingRow.from_json(old) == TrainingRow(Example("tea"), confidence=0.25)

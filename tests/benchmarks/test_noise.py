"""The hand that spoils labels."""

from __future__ import annotations

from pathlib import Path

from benchmarks.noise import spoilt
from task.labels import Example, Label
from task.load import load_task

QUERY = "verdant oat milk 1l"
EXAMPLE = Example(QUERY, (
    Label("brand", "verdant", 0, 7), Label("product", "oat milk", 8, 16), Label("size", "1l", 17, 19),
    Label("department", "Drinks"),
))


def test_as_many_labels_are_spoilt_as_was_asked_for() -> None:
    task = load_task(Path("configs/market.yaml")).task
    assert spoilt(EXAMPLE, task, 0.0, 1) == EXAMPLE
    kept = total = 0
    for seed in range(500):
        found = spoilt(EXAMPLE, task, 0.2, seed)
        assert found == spoilt(EXAMPLE, task, 0.2, seed)
        kept += len(set(found.labels) & set(EXAMPLE.labels))
        total += len(EXAMPLE.labels)
        for x in found.labels:
            assert x.start is None or QUERY[x.start : x.end] == x.text
        assert len([x for x in found.labels if x.role == "brand"]) <= 1
    assert 0.77 < kept / total < 0.83

"""The hand that spoils labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.noise import packed, spoilt, summary, unpacked
from task.labels import Example, Label
from task.load import load_task
from tests.conftest import make_task

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


def test_counts_that_were_kept_are_the_counts() -> None:
    counts = np.random.default_rng(0).integers(0, 9, (200, 3))
    assert np.array_equal(unpacked(packed(counts)), counts)


def test_students_are_set_beside_their_teacher_and_the_plain_ones_rate_by_rate() -> None:
    task = make_task(eval={"resamples": 100})
    gold = [Example(f"oat milk {i}", (Label("product", "oat milk", 0, 8),)) for i in range(100)]
    right, half = (np.stack([hit, 1 - hit, 1 - hit], axis=1) for hit in (np.ones(100, int), np.arange(100) % 2))
    kept = {"0.2-0-plain": half, "0.2-1-plain": half, "0.2-0-robust": right, "0-0-plain": right}
    found = summary(task, gold, gold, {k: {"counts": packed(v)} for k, v in kept.items()})
    assert [r["rate"] for r in found] == [0.0, 0.2]
    assert found[0]["f1"]["teacher"]["value"] == found[0]["f1"]["plain"]["value"] == 1.0
    assert found[1]["less_plain"]["robust"]["value"] == 0.5
    assert len(found[1]["f1"]["teacher"]["seeds"]) == 2
    assert 0.7 < found[1]["f1"]["teacher"]["value"] < 0.9

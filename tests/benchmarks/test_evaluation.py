"""The benchmarks of evaluation itself, at small sizes: what they compare is the same thing."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.evaluation import made_up, peer
from benchmarks.gate import flipped
from benchmarks.load_generator import theory
from eval.matching import count
from eval.metrics import micro
from task.normalize import normalize_v1
from tests.conftest import make_task
from tests.eval.test_matching import random_rows


def test_ours_and_seqevals_f1_are_the_same_number() -> None:
    gold, predicted = made_up(2_000)
    table = count(gold, predicted, [f"role{i}" for i in range(10)], "span", normalize_v1)
    assert micro(table.sum(axis=0))[2] == pytest.approx(peer(gold, predicted, 0)["f1"], abs=1e-12)


def test_the_queue_of_the_theory_is_the_one_of_the_textbook() -> None:
    found = theory(30.0, trials=40)
    assert found["mean"] == pytest.approx(1e3 / 150, abs=1e-3)
    assert found["mean_95"][0] < found["mean"] < found["mean_95"][1]
    assert found["p99_95"][0] < found["p99"] < found["p99_95"][1]


def test_as_many_labels_are_flipped_as_asked_for() -> None:
    gold, _ = random_rows(0, 4_000)
    task = make_task()
    changed = [flipped(g, task, 0.1, 0) for g in gold]
    pairs = [(a, b) for g, c in zip(gold, changed, strict=True) for a, b in zip(g.labels, c.labels, strict=True)]
    assert np.mean([a.role != b.role for a, b in pairs]) == pytest.approx(0.1, abs=0.01)
    assert [flipped(g, task, 0.1, 0) for g in gold] == changed

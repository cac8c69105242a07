"""Signals become calibrated probabilities; rows below the threshold are kept and marked."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from task.labels import Label
from task.settings import Confidence
from teacher.guardrails.confidence import apply, calibrate, fit, obstacle, rightness
from teacher.ledger.records import LedgerRow
from tests.conftest import make_task

TASK = make_task(teacher={"backend": "labels", "confidence": {"target_precision": 0.9}})


def population(rows: int, seed: int = 0) -> tuple[list[LedgerRow], dict[str, tuple[Label, ...]]]:
    """Labels of known probability: the signal `support` determines it, `noise` is independent of it."""
    rng = random.Random(seed)
    out, gold = [], {}
    for i in range(rows):
        query = f"brand{i} thing{i}"
        labels, signals, truth = [], [], []
        for role, text in (("brand", f"brand{i}"), ("product", f"thing{i}")):
            support = rng.random()
            at = query.index(text)
            labels.append(Label(role, text, at, at + len(text)))
            signals.append({"support": support, "noise": rng.random()})
            if rng.random() < support**0.25:
                truth.append(labels[-1])
        gold[query] = tuple(truth)
        out.append(LedgerRow(query, 1, "key", "accepted", tuple(labels), 1.0, label_signals=signals))
    return out, gold


def test_the_signal_that_tells_decides_and_the_threshold_reaches_its_precision_on_new_rows() -> None:
    calibration = calibrate(TASK, *population(600))
    assert calibration is not None
    weights = calibration.labels.to_json()["weights"]
    assert weights["support"] > 5 * abs(weights["noise"])
    assert calibration.report["label"]["auroc"]["low"] > 0.6
    assert calibration.threshold is not None
    rows, gold = population(3_000, seed=1)
    judged = apply(rows, calibration, TASK.teacher.confidence)
    kept = [
        good for r in judged for x, good in zip(r.labels, rightness(r, gold[r.query], str), strict=True)
        if (x.confidence or 0) >= calibration.threshold
    ]
    assert np.mean(kept) >= 0.89
    assert len(kept) > 2_000


def test_rows_below_the_threshold_are_kept_and_marked_and_a_second_look_changes_nothing() -> None:
    calibration = calibrate(TASK, *population(600))
    assert calibration is not None
    rows, _ = population(50, seed=2)
    once = apply(rows, calibration, TASK.teacher.confidence)
    assert {r.status for r in once} == {"accepted", "uncertain"}
    for r in once:
        least = min(x.confidence or 0.0 for x in r.labels)
        assert (r.status == "uncertain") == (least < (calibration.threshold or 0.0))
        assert len(r.labels) == 2
    assert apply(once, calibration, TASK.teacher.confidence) == once
    lenient = apply(once, calibration, Confidence(threshold=0.0))
    assert [r.status for r in lenient] == [r.status for r in once]  # the calibration's own threshold was chosen
    free = calibrate(make_task(teacher={"backend": "labels", "confidence": {"threshold": 0.0}}), *population(600))
    assert all(r.status == "accepted" for r in apply(once, free, Confidence(threshold=0.0)))


def test_no_row_is_judged_by_a_calibrator_that_saw_it() -> None:
    """With uninformative signals an out-of-fold AUROC is near 0.5; that of a calibrator that saw the rows is not."""
    rng = np.random.default_rng(0)
    rows, gold = [], {}
    for i in range(120):
        x = Label("product", "milk", 0, 4)
        signals = {f"s{j}": float(v) for j, v in enumerate(rng.uniform(size=20))}
        rows.append(LedgerRow(f"milk {i}", 1, "", "accepted", (x,), 1.0, label_signals=[signals]))
        gold[f"milk {i}"] = (x,) if rng.uniform() < 0.5 else ()
    calibration = calibrate(TASK, rows, gold)
    assert calibration is not None
    assert calibration.report["label"]["auroc"]["value"] < 0.65


@pytest.mark.parametrize("method", ["logistic", "isotonic"])
def test_a_calibrator_is_a_handful_of_numbers_and_gives_probabilities(method: str) -> None:
    rows, gold = population(200)
    signals = [s for r in rows for s in r.label_signals[:2]]
    roles = [x.role for r in rows for x in r.labels]
    right = [g for r in rows for g in rightness(r, gold[r.query], str)]
    found = fit(signals, roles, right, Confidence(method=method))  # type: ignore[arg-type]
    assert json.loads(json.dumps(found.to_json()))["weights"]["support"] > 0
    p = found.apply([{"support": 0.01}, {"support": 0.99}, {}, {"support": 0.5, "unheard": 1.0}], ["brand"] * 4)
    assert ((p > 0) & (p < 1)).all()
    assert p[0] < p[3] < p[1]
    assert found.apply([], []).shape == (0,)


def test_too_little_gold_gives_no_calibration_and_nothing_is_marked() -> None:
    rows, gold = population(20)
    assert calibrate(TASK, rows, gold) is None
    judged = apply(rows, None, TASK.teacher.confidence)
    assert all(r.status == "accepted" for r in judged)
    assert all(0 <= (x.confidence or 0) <= 1 for r in judged for x in r.labels)


def test_what_keeps_confidences_from_being_calibrated_is_said() -> None:
    rows, gold = population(60)
    for judged, truth, why in (
        (rows[:20], gold, "20 of 60 gold calibration queries have an answer, and teacher.confidence.min_rows is 50"),
        (rows, {r.query: r.labels for r in rows}, "of 60 answered gold calibration queries are right, so that"),
        (rows, dict.fromkeys(gold, ()), "of 60 answered gold calibration queries are wrong, so that"),
        ([replace(r, labels=(), label_signals=()) for r in rows], gold, "60 gold calibration queries have no label"),
    ):
        found = obstacle(TASK, judged, truth)
        assert found is not None
        assert why in found.why
        assert calibrate(TASK, judged, truth) is None
    assert obstacle(TASK, *population(600)) is None


def test_each_gold_label_counts_once() -> None:
    x = Label("product", "milk", 0, 4)
    row = LedgerRow("milk milk", 1, "", "accepted", (x, Label("product", "milk", 5, 9)), 1.0)
    assert rightness(row, (x,), str) == [True, False]


def test_isotonic_adds_the_steps_that_a_logistic_curve_cannot_follow() -> None:
    """Right above one half and wrong below: a step, which a regularised logistic curve smooths."""
    signals = [{"support": (i + 0.5) / 200} for i in range(200)]
    right = [s["support"] > 0.5 for s in signals]
    found = {
        method: fit(signals, [""] * 200, right, Confidence(method=method)).apply(signals, [""] * 200)  # type: ignore[arg-type]
        for method in ("logistic", "isotonic")
    }
    just_above = next(i for i, r in enumerate(right) if r) + 1
    assert found["logistic"][just_above] < 0.7
    assert found["isotonic"][just_above] > 0.95
    assert all(np.all(np.diff(p) >= -1e-9) for p in found.values())

"""The answer of a report: yes only where the gate and the comparison show it, no only where they refute it."""

from __future__ import annotations

from typing import Any

import pytest

from eval.gate import GateEvidence, judge
from eval.headline import headline
from task.settings import Gates

NONE = Gates(
    engine_label_agreement=None, min_f1=None, teacher_margin=None, slice_margin=None, max_invalid=None, slo=None
)


def estimate(value: float, spread: float = 0.005) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def answer(difference: dict[str, float] | None, remarks: tuple[str, ...] = (), **rules: Any) -> tuple[str, str]:
    measured = rules.pop("measured", {})
    teacher = None if difference is None else {"rows": 400, "f1": difference, "recall": difference}
    checks = judge(NONE.model_copy(update=rules), GateEvidence(teacher=teacher, **measured))  # type: ignore[arg-type]
    differences = [] if difference is None else [{"a": "student", "b": "teacher", "f1": difference}]
    found = headline([c.to_json() for c in checks], differences, remarks)  # type: ignore[arg-type]
    assert found["against"] == (None if difference is None else "teacher")
    return found["answer"], " | ".join(found["why"])


@pytest.mark.parametrize(("difference", "margin", "expected"), [
    (estimate(0.02), 0.01, "yes"), (estimate(-0.003), 0.01, "yes"),  # worse, by less than the margin
    (estimate(-0.05), 0.01, "no"), (estimate(-0.008, 0.02), 0.01, "not shown"),  # too few queries for the margin
    (estimate(0.02), None, "yes"), (estimate(-0.02), None, "no"), (estimate(0.001), None, "not shown"),
    (None, 0.01, "not shown"), (None, None, "not shown"),
])
def test_the_comparison_with_the_teacher_decides(
    difference: dict[str, float] | None, margin: float | None, expected: str
) -> None:
    found, why = answer(difference, teacher_margin=margin)
    assert found == expected
    assert why


def test_a_rule_that_fails_on_what_was_measured_is_a_no_and_comes_first() -> None:
    found, why = answer(estimate(0.02), teacher_margin=0.01, min_f1=0.9, measured={"f1": estimate(0.5)})
    assert found == "no"
    assert why.startswith("F1 50.00 % (gate min_f1")


def test_a_rule_without_a_measurement_shows_nothing() -> None:
    slo = Gates(slo={"percentile": "p99", "ms": 100}).slo
    few = {"count": 5, "errors": 0, "p50_ms": None, "p95_ms": None, "p99_ms": None}
    found, why = answer(estimate(0.02), teacher_margin=0.01, slo=slo, measured={"latency": few})
    assert found == "not shown"
    assert "gate slo" in why
    slow = few | {"p99_ms": estimate(500, 10)}
    assert answer(estimate(0.02), teacher_margin=0.01, slo=slo, measured={"latency": slow})[0] == "no"
    fast = few | {"p99_ms": estimate(50, 10)}
    assert answer(estimate(0.02), teacher_margin=0.01, slo=slo, measured={"latency": fast})[0] == "yes"


def test_a_yes_says_that_no_latency_objective_was_judged() -> None:
    assert "gates.slo" in answer(estimate(0.02), teacher_margin=0.01)[1]


def test_a_baseline_that_is_better_is_among_the_reasons_with_its_figure_whatever_the_answer() -> None:
    beaten = {"a": "student", "b": "dictionary", "f1": estimate(-0.218, 0.02)}
    better = beaten | {"f1": estimate(0.218, 0.02)}
    why = "ΔF1 against the dictionary is -21.8 [-23.8, -19.8] points: train longer"
    for difference, teacher, expected in (
        (beaten, None, "not shown"), (beaten, estimate(0.02), "yes"), (better, None, "not shown"),
    ):
        differences = [*([{"a": "student", "b": "teacher", "f1": teacher}] if teacher else []), difference]
        found = headline([], differences, ["imported labels"])  # type: ignore[arg-type]
        assert found["answer"] == expected
        assert any(x.startswith(why) for x in found["why"]) == (difference is beaten)
        assert "imported labels" in found["why"]


def test_a_no_says_what_to_do_where_there_is_no_teacher() -> None:
    remarks = ("the labels were imported. Set gates.min_f1",)
    found, why = answer(None, remarks, min_f1=0.9, measured={"f1": estimate(0.5)})
    assert found == "no"
    assert why.startswith("F1 50.00 %")
    assert "Set gates.min_f1" in why


def test_why_there_is_no_teacher_is_said() -> None:
    assert answer(None, ("the labels were imported",)) == ("not shown", "the labels were imported")

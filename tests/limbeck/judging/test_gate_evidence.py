"""The evidence of the gate is what was measured: each figure reaches the rule that judges it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from eval.gate import Agreement, judge
from eval.quality import quality
from limbeck.judging.gate_evidence import evidence_of, student_confidence
from limbeck.judging.served import Served, fault_of
from serving.client import ServedAnswer
from task.labels import Example, Label
from task.settings import Gates, Slo
from tests.conftest import make_task

TASK = make_task(eval={"resamples": 50})
GOLD = [Example(f"oat milk {i}", (Label("product", "oat milk", 0, 8),)) for i in range(40)]
HALF = [Example(g.query, g.labels if i % 2 else ()) for i, g in enumerate(GOLD)]
NOTHING = [Example(g.query) for g in GOLD]
FAST = {"value": 10.0, "low": 9.0, "high": 11.0}


def failing(rows: list[Example], gates: Gates, *, valid: bool = True, **more: Any) -> set[str]:
    bench: Any = SimpleNamespace(figures={"steady": {"valid": valid, "miss": {"p99_ms": FAST}}})
    served = Served(rows, [0.9] * len(rows), [None] * len(rows), 1.0, bench)
    evidence = evidence_of(
        TASK, GOLD, served, quality(GOLD, rows, TASK, invalid=served.invalid), student_confidence(TASK, GOLD, served),
        agreement=Agreement(1.0, 400, "40 gold queries"), **more,
    )
    return {c.rule for c in judge(gates, evidence) if not c.ok}


@pytest.mark.parametrize(("gates", "more", "rule"), [
    (Gates(min_f1=0.9), {}, "min_f1"),
    (Gates(teacher_margin=0.01), {"teacher": GOLD}, "teacher_margin"),
    (Gates(slice_margin=0.01, slice_rows=10), {"teacher": GOLD, "traffic": ["head"] * 40}, "slice_margin"),
    (Gates(max_slower=None), {"released": GOLD}, "released_margin"),
    (Gates(released_margin=None), {"released": GOLD, "slower": {"value": 0.5, "low": 0.4, "high": 0.6}}, "max_slower"),
    (Gates(max_ece=0.1), {}, "max_ece"),
    (Gates(slo=Slo(ms=5)), {}, "slo"),
    (Gates(slo=Slo(ms=50)), {"valid": False}, "slo"),
])
def test_a_bad_figure_reaches_its_rule(gates: Gates, more: dict[str, Any], rule: str) -> None:
    assert failing(HALF, gates, **more) == {rule}


def test_what_is_as_good_passes_and_what_answers_nothing_does_not() -> None:
    gates = Gates(min_f1=0.4, teacher_margin=0.01, max_ece=0.8, slo=Slo(ms=50))
    good = {"teacher": HALF, "released": HALF, "slower": {"value": 0.0, "low": 0.0, "high": 0.0}}
    assert failing(HALF, gates, **good) == set()
    assert failing(NOTHING, gates, **good) == {"min_f1", "teacher_margin", "released_margin", "max_ece"}


def test_queries_that_the_teacher_did_not_answer_are_no_wrong_answers_of_it() -> None:
    """This teacher is right wherever it answered; counted as wrong elsewhere, it is worse than a student of 75 %."""
    gates = Gates(teacher_margin=0.01, slice_margin=0.01, slice_rows=5)
    student = [Example(g.query, g.labels if i % 4 else ()) for i, g in enumerate(GOLD)]
    answered = range(10)
    teacher = [g if i in answered else Example(g.query) for i, g in enumerate(GOLD)]
    more = {"teacher": teacher, "teacher_rows": answered, "traffic": ["head"] * 40}
    assert failing(student, gates, **more) == {"teacher_margin", "slice_margin"}
    assert failing(student, gates, **more | {"teacher_rows": None}) == set()
    assert failing(student, gates, **more | {"teacher_rows": []}) == {"teacher_margin", "slice_margin"}  # not measured


def test_the_gate_sees_what_a_gateway_lets_through() -> None:
    wrong = Example("oat milk", (Label("aisle", "moon"),))
    assert fault_of(ServedAnswer(wrong, 0.9, None), TASK) == "unknown_value"
    assert fault_of(ServedAnswer(wrong, 0.9, "truncated"), TASK) == "truncated"
    assert fault_of(ServedAnswer(GOLD[0], 0.9, None), TASK) is None

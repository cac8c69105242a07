"""The gate: what it lets through, what it stops, and what it says about it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from eval.gate import Agreement, GateEvidence, judge, junit, labels_to_show, passed
from task.settings import Gates, Slo


def figure(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


SAME = {"rows": 2_000, "f1": figure(0.0, -0.004, 0.004), "recall": figure(0.0, -0.004, 0.004)}
WORSE = {"rows": 2_000, "f1": figure(-0.01, -0.013, -0.007), "recall": figure(-0.01, -0.013, -0.007)}
GOOD = {
    "f1": figure(0.95, 0.94, 0.96),
    "engine_agreement": Agreement(0.999, 2_000, "900 gold queries"),
    "invalid": figure(0.0, 0.0, 0.0), "teacher": SAME,
    "teacher_slices": {"head": SAME, "tail": SAME}, "released": SAME, "slower": figure(0.01, -0.02, 0.04),
    "ece": figure(0.01, 0.005, 0.02), "latency": {"p99_ms": figure(80, 75, 90)}, "latency_valid": True,
    "first_release": False,
}
ALL = Gates(
    min_f1=0.9, teacher_margin=0.01, released_margin=0.005, slice_margin=0.02, max_slower=0.1, max_ece=0.05,
    slo=Slo(ms=100),
)


def failing(gates: Gates, **changed: object) -> list[str]:
    return [c.rule for c in judge(gates, GateEvidence(**GOOD | changed)) if not c.ok]  # type: ignore[arg-type]


def test_a_good_student_passes_every_rule() -> None:
    checks = judge(ALL, GateEvidence(**GOOD))  # type: ignore[arg-type]
    assert passed(checks)
    assert {c.rule for c in checks} == {
        "engine_label_agreement", "min_f1", "teacher_margin", "slice_margin", "released_margin", "max_slower",
        "max_invalid", "max_ece", "slo",
    }


@pytest.mark.parametrize(("f1", "margin", "ok"), [
    (figure(-0.03, -0.08, 0.02), 0.0, True), (figure(-0.03, -0.05, -0.01), 0.0, False),
    (figure(-0.03, -0.05, -0.01), 0.02, True), (figure(0.03, 0.01, 0.05), 0.0, True),
    ({"value": None, "low": None, "high": None}, 0.0, False),
])
def test_few_drawn_requests_must_not_show_that_f1_is_lower(f1: dict[str, float], margin: float, ok: bool) -> None:
    found = {**GOOD, "traffic": {"rows": 100, "f1": f1, "recall": f1}}
    check = next(
        c for c in judge(Gates(traffic_margin=margin), GateEvidence(**found))  # type: ignore[arg-type]
        if c.rule == "traffic_margin"
    )
    assert check.ok is ok
    assert "on drawn requests (100)" in check.text
    assert not failing(Gates(traffic_margin=None), traffic={"rows": 100, "f1": f1, "recall": f1})


@pytest.mark.parametrize(("changed", "rule"), [
    ({"f1": figure(0.89, 0.88, 0.95)}, "min_f1"),
    ({"engine_agreement": Agreement(0.98, 2_000, "900 gold queries")}, "engine_label_agreement"),
    ({"invalid": figure(0.0005, 0.0, 0.002)}, "max_invalid"),
    ({"teacher": WORSE}, "teacher_margin"),
    ({"released": WORSE}, "released_margin"),
    ({"released": {**SAME, "recall": WORSE["recall"]}}, "released_margin"),
    ({"teacher_slices": {"head": SAME, "tail": {**SAME, "recall": figure(-0.03, -0.05, -0.01)}}}, "slice_margin"),
    ({"slower": figure(0.2, 0.15, 0.25)}, "max_slower"),
    ({"slower": figure(0.05, -0.05, 0.15)}, "max_slower"),
    ({"ece": figure(0.04, 0.03, 0.06)}, "max_ece"),
    ({"latency": {"p99_ms": figure(99, 90, 110)}}, "slo"),
    ({"latency": {"p99_ms": {"value": 99.0, "low": 90.0, "high": None}}}, "slo"),
    ({"latency_valid": False}, "slo"),
])
def test_each_rule_stops_what_it_is_for(changed: dict[str, object], rule: str) -> None:
    assert set(failing(ALL, **changed)) == {rule}
    assert not passed(judge(ALL, GateEvidence(**GOOD | changed)))  # type: ignore[arg-type]


LATE = "p99 latency of cache misses"
DRAWN = "ΔF1 against the released bundle on drawn requests"
TEACHERS = "ΔF1 against the teacher"


@pytest.mark.parametrize(("gates", "measured", "texts"), [
    ({"slo": Slo(ms=500)}, {"latency": {"p99_ms": figure(380.9, 355.1, 547.6)}},
     [f"{LATE} 380.9 [355.1, 547.6] ms, upper bound 547.6 ms"]),
    ({"slo": Slo(ms=500)}, {"latency": {"p99_ms": figure(380.9, 355.1, 500.004)}},
     [f"{LATE} 380.9 [355.1, 500.0] ms, upper bound 500.004 ms"]),
    ({"slo": Slo(ms=500)}, {"latency": {"p99_ms": figure(500.04, 355.1, 547.6)}},
     [f"{LATE} 500.04 [355.1, 547.6] ms"]),
    ({"slo": Slo(ms=500)}, {"latency": {"p99_ms": {"value": 99.0, "low": 90.0, "high": None}}},
     [f"{LATE} 99.0 [90.0, –] ms, no upper bound"]),
    ({"max_invalid": 0.0}, {"invalid": figure(0.0004, 0.0, 0.002)}, ["invalid answers 0.04 %"]),
    ({"max_ece": 0.05}, {"ece": figure(0.0498, 0.03, 0.05004)},
     ["expected calibration error (ECE) 4.98 [3.0, 5.0] %, upper bound 5.004 %"]),
    ({"min_f1": 0.9}, {"f1": figure(0.899996, 0.88, 0.91)}, ["F1 89.9996 %"]),
    ({"engine_label_agreement": 0.99}, {"engine_agreement": Agreement(0.98999, 5_000, "900 gold queries")},
     ["engine and merged model agree on 98.999 % of 5,000 labels of 900 gold queries"]),
    ({"teacher_margin": 0.05}, {"teacher": {"rows": 60, "f1": figure(-0.014, -0.0504, 0.014),
                                            "recall": figure(0.0, -0.05, 0.05)}},
     [f"{TEACHERS} -1.4 [-5.0, +1.4], lower bound -5.04 points is below -5",
      "Δrecall against the teacher +0.0 [-5.0, +5.0], lower bound -5.0 points is not above -5"]),
    ({"teacher_margin": 0.05}, {"teacher": {"rows": 60, "f1": figure(-0.06, -0.09, -0.03),
                                            "recall": figure(0.0, -0.01, 0.01)}},
     [f"{TEACHERS} -6.0 [-9.0, -3.0]"]),  # the value shows it
    ({"teacher_margin": 0.0}, {"teacher": {"rows": 60, "f1": figure(0.01, -0.0004, 0.02),
                                           "recall": figure(0.1, 0.01, 0.2)}},
     [f"{TEACHERS} +1.0 [-0.0, +2.0], lower bound -0.04 points is below 0"]),
    ({"traffic_margin": 0.01}, {"traffic": {"rows": 60, "f1": figure(-0.04, -0.06, -0.0104), "recall": SAME["recall"]}},
     [f"{DRAWN} (60) -4.0 [-6.0, -1.0], upper bound -1.04 points is below -1"]),
])
def test_what_a_rule_found_does_not_look_like_a_pass_where_it_fails(
    gates: dict[str, object], measured: dict[str, object], texts: list[str]
) -> None:
    bare = {"engine_label_agreement": None, "max_invalid": None}
    found = judge(Gates(**bare | gates), GateEvidence(**measured))  # type: ignore[arg-type]
    assert [c.found for c in found if not c.ok] == texts


@pytest.mark.parametrize("missing", ["f1", "engine_agreement", "invalid", "teacher", "teacher_slices", "released",
                                     "slower", "ece", "latency"])
def test_what_was_not_measured_has_not_been_shown(missing: str) -> None:
    assert len(failing(ALL, **{missing: None})) == 1


def test_too_few_rows_do_not_pass_and_small_slices_are_not_judged() -> None:
    wide = {"rows": 50, "f1": figure(0.0, -0.05, 0.05), "recall": figure(0.0, -0.05, 0.05)}
    assert set(failing(ALL, released=wide)) == {"released_margin"}
    assert not failing(ALL, teacher_slices={"head": SAME, "tail": wide})
    found = [c for c in judge(ALL, GateEvidence(**GOOD | {"teacher_slices": {"head": wide}})) if not c.ok]  # type: ignore[arg-type]
    assert [c.found for c in found] == [
        "difference to the teacher by slice (no slice has 100 rows, gates.slice_rows): not measured"
    ]


def test_a_first_release_has_nothing_to_be_compared_with_and_rules_can_be_left_out() -> None:
    assert not failing(ALL, first_release=True, released=None, slower=None)
    bare = Gates(released_margin=None, max_slower=None, max_invalid=None)
    assert [c.rule for c in judge(bare, GateEvidence(**GOOD))] == ["engine_label_agreement"]  # type: ignore[arg-type]
    assert judge(bare.model_copy(update={"engine_label_agreement": None}), GateEvidence()) == []


def test_an_agreement_says_which_rows_it_is_of_and_whether_they_are_enough() -> None:
    """`run` compares on gold, `gate` elsewhere on a few reference queries: the same words hid that."""
    gates = Gates(max_invalid=None)

    def said(share: float, labels: int | None, queries: str) -> tuple[bool, str]:
        (check,) = judge(gates, GateEvidence(engine_agreement=Agreement(share, labels, queries)))
        return check.ok, check.found

    few = ", fewer than the 299 that it takes to show 99 %"
    start = "engine and merged model agree on"
    assert said(1.0, 60, "18 reference queries") == (
        True, f"{start} 100.00 % of 60 labels of 18 reference queries{few}"
    )
    # Here it is the share that fails, whatever their number.
    assert said(0.931, 203, "60 gold queries") == (False, f"{start} 93.10 % of 203 labels of 60 gold queries")
    assert said(0.995, 299, "90 gold queries") == (True, f"{start} 99.50 % of 299 labels of 90 gold queries")
    assert said(0.995, None, "") == (True, f"{start} 99.50 % of labels")


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99, 0.995])
def test_labels_that_all_agree_show_a_share_as_soon_as_chance_would_not_explain_it(share: float) -> None:
    needed = labels_to_show(share)
    assert needed is not None
    assert share**needed <= 0.05 < share ** (needed - 1)


def test_no_number_of_labels_shows_that_all_agree() -> None:
    assert labels_to_show(1.0) is None
    assert labels_to_show(0.0) == 1


def test_junit_says_what_failed() -> None:
    checks = judge(ALL, GateEvidence(**GOOD | {"released": WORSE}))  # type: ignore[arg-type]
    root = ET.fromstring(junit(checks, "gate"))
    assert (root.get("tests"), root.get("failures")) == (str(len(checks)), "2")
    messages = [f.get("message") or "" for f in root.iter("failure")]
    assert any("ΔF1 against the released bundle -1.0 [-1.3, -0.7]" in m for m in messages)


def test_junit_names_a_check_alike_in_every_run_and_keeps_its_figures_apart() -> None:
    """A CI system follows a test by its name."""
    def cases(**other: object) -> dict[str, list[str]]:
        root = ET.fromstring(junit(judge(ALL, GateEvidence(**GOOD | other)), "gate"))  # type: ignore[arg-type]
        return {
            c.attrib["name"]: [p.attrib["value"] for p in c.iter("property") if p.attrib["name"] == "found"]
            for c in root.iter("testcase")
        }

    first, second = cases(), cases(released=WORSE, invalid_kinds={"unreadable": 3})
    assert first.keys() == second.keys()
    assert len(first) == len(judge(ALL, GateEvidence(**GOOD)))  # type: ignore[arg-type]
    assert not [name for name in first if re.search(r"\d", re.sub("[Ff]1|p99", "", name))]
    assert second["released_margin: ΔF1 against the released bundle"] == [
        "ΔF1 against the released bundle -1.0 [-1.3, -0.7]"
    ]

"""The answer at the top of a report: may the student replace the teacher?

It follows from the gate and from the paired difference to the teacher, and says no more than these show: a difference
that the rows are too few to exclude is "not shown", not "no".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.formatting import points
from eval.quality_schema import NamedDifference
from eval.report_schema import Answer, Headline, VerdictLine

_MARGINS = frozenset({"teacher_margin", "slice_margin"})
_SHARES = frozenset({"min_f1", "engine_label_agreement"})  # judged by their value, not by an interval


def headline(
    checks: Sequence[VerdictLine], differences: Sequence[NamedDifference], remarks: Sequence[str] = (), *,
    teacher: str = "teacher",
) -> Headline:
    """`yes`, `no` or `not shown`, and why.

    Args:
        checks: Outcomes of the rules of the gate.
        differences: Paired differences of the student; the first is the one that plots and headline show.
        remarks: Why there is no comparison with the teacher, or on how many queries it has no answer.
        teacher: The teacher's name among the compared systems.

    Returns:
        `no` where a rule fails on what was measured; `not shown` where something was not measured, where an interval
        is too wide for a margin, or where there is no teacher or no margin to compare with.
    """
    first = differences[0] if differences else None
    against = next((d for d in differences if d["b"] == teacher), None)
    failed = [c for c in checks if not c["ok"]]
    refuted = [c for c in failed if _refutes(c)]
    answer: Headline = {
        "answer": "not shown", "why": [], "against": None if first is None else first["b"],
        "difference": None if first is None else first["f1"],
    }
    if refuted:
        answer["answer"] = "no"
        answer["why"] = [c["text"] for c in (*refuted, *(c for c in failed if c not in refuted))]
    elif failed:
        answer["why"] = [f"{c['text']}: {_unclear(c)}" for c in failed]
    elif against is None:
        answer["why"] = [] if remarks else ["the student was not compared with the teacher"]
    else:
        answer["answer"], why = _compared(checks, against)
        answer["why"] = [why]
    answer["why"] += [_beaten(d) for d in differences if d is not against and _is_beaten(d)]
    answer["why"] += remarks
    if answer["answer"] == "yes" and not any(c["rule"] == "slo" for c in checks):
        answer["why"].append("no latency objective was judged (gates.slo)")
    return answer


def _is_beaten(difference: NamedDifference) -> bool:
    """Whether the student is worse than a system beyond doubt."""
    high = difference["f1"]["high"]
    return high is not None and high < 0


def _beaten(difference: NamedDifference) -> str:
    """A baseline costs less than any student, so one that beats it matters whatever the gate says."""
    return (
        f"ΔF1 against the {difference['b']} is {points(difference['f1'])} points: train longer (student.epochs) or on "
        f"more labels, or serve the {difference['b']}"
    )


def _refutes(check: VerdictLine) -> bool:
    """Whether a failed rule was measured and refuted: for a margin, that the student is worse beyond doubt."""
    found = check.get("evidence")
    if found is None:
        return False
    if not isinstance(found, Mapping):
        return True
    if check["rule"] in _MARGINS:
        return found["high"] is not None and found["high"] < 0
    return found["value"] is not None and (check["rule"] in _SHARES or found["high"] is not None)


def _unclear(check: VerdictLine) -> str:
    if check.get("evidence") is None:
        return "nothing was measured that could show it"
    return "too few queries to show it" if check["rule"] in _MARGINS else "too few samples to show it"


def _compared(checks: Sequence[VerdictLine], difference: NamedDifference) -> tuple[Answer, str]:
    """The answer where no rule fails, and the sentence for it."""
    f1 = difference["f1"]
    said = f"ΔF1 against the teacher is {points(f1)} points"
    if f1["value"] is None or f1["low"] is None or f1["high"] is None:
        return "not shown", "the difference to the teacher is not defined: neither has a label on these queries"
    if any(c["rule"] == "teacher_margin" for c in checks):
        return "yes", f"{said}, within the margin of the task (gates.teacher_margin)"
    if f1["low"] >= 0:
        return "yes", f"{said}: it is at least as good"
    if f1["high"] < 0:
        return "no", f"{said}, and the task allows no margin (gates.teacher_margin)"
    return "not shown", f"{said}, and the task says no margin that would be small enough (gates.teacher_margin)"

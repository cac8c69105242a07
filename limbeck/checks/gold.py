"""Checks of the gold rows: enough to calibrate, to evaluate, and for the rules of the gate."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from eval.expected_interval import half_interval
from eval.slices import TRAFFIC, traffic
from limbeck.checks.finding import Finding, Subject, bad, note, ok

_F1, _TOO_WIDE = 0.9, 0.08  # an F1 that students reach, and the half interval from which on it says little


def calibration(s: Subject) -> Iterator[Finding]:
    """Gold to calibrate the teacher's confidence on."""
    from teacher.backends.backend import backend_of

    name, needed = "data.gold.calibration", s.task.teacher.confidence.min_rows
    if not s.readable or not backend_of(s.task).estimates_confidence:
        return
    rows = len({e.query for e in s.rows("calibration")})
    if rows >= needed:
        yield ok(name, f"{rows:,} queries to calibrate on, {needed:,} are needed")
    else:
        yield note(
            name, f"{rows:,} queries, and teacher.confidence.min_rows is {needed:,}: confidences stay uncalibrated, so "
            "no label is left out as doubtful", "Label more queries, if you can, before you pay for the log",
        )


def test(s: Subject) -> Iterator[Finding]:
    """Gold to evaluate on."""
    name = "data.gold.test"
    if s.run.inputs.source("test") is None and not s.run.inputs.verdicts:
        yield bad(
            name, "no gold test rows, so that there is nothing to evaluate on",
            "Name a file of labelled queries; `limbeck bundle TASK` makes a student without an evaluation",
        )
    elif s.rows("test"):
        yield from _precision(s, name)


def _precision(s: Subject, name: str) -> Iterator[Finding]:
    """How wide the intervals of the report will be, and whether that is enough for the margin against the teacher."""
    from teacher.backends.backend import backend_of

    judged = s.run.inputs.judged
    rows, labels = len(judged), sum(len(e.labels) for e in judged)
    difference = half_interval(rows)
    margin = s.task.gates.teacher_margin if backend_of(s.task).answers_any_query else None
    own = 1.96 * math.sqrt(_F1 * (1 - _F1) / max(1, labels))
    text = (
        f"{rows:,} rows with {labels:,} labels: 95 % intervals of about ±{100 * own:.1f} points for F1, at an F1 of "
        f"{_F1:.0%}, and ±{100 * difference:.1f} for ΔF1, if two systems differ as in the market's report"
    )
    if margin is not None and difference > margin:
        yield note(
            name, f"{text}, so that a student as good as its teacher can miss gates.teacher_margin {margin:g}",
            "Label more rows, or widen gates.teacher_margin",
        )
    elif own > _TOO_WIDE:
        yield note(name, f"{text}: too few to tell a good student from a bad one", "Label some hundred rows")
    else:
        yield ok(name, text)


def gates(s: Subject) -> Iterator[Finding]:
    """Every rule of the gate can be measured: one that cannot fails, after everything else is done."""
    from teacher.backends.backend import backend_of

    wanted, gold = s.task.gates, s.rows("test")
    for rule in ("teacher_margin", "slice_margin"):
        if getattr(wanted, rule) is not None and not backend_of(s.task).answers_any_query:
            yield bad(
                f"gates.{rule}", "imported labels are no teacher that the student could be compared with",
                f"Leave the rule out: --set gates.{rule}=null",
            )
    if wanted.slice_margin is not None and gold and s.rows("queries"):
        yield _slices(s)
    if wanted.slo is not None:
        yield _latency(s)


def _slices(s: Subject) -> Finding:
    name, least = "gates.slice_margin", s.task.gates.slice_rows
    log = s.rows("queries")
    if len({q.count for q in log}) < 2:
        return bad(
            name, "all queries of the log have one count, so there is no head, torso or tail",
            "Add counts to data.queries, or leave the rule out: --set gates.slice_margin=null",
        )
    rows = Counter(traffic(s.run.inputs.judged, log, s.task))
    shown = ", ".join(f"{part} {rows[part]:,}" for part in TRAFFIC)
    if max(rows.values()) < least:
        return note(name, f"gold rows by slice: {shown}; none has gates.slice_rows = {least:,}, so no slice is judged")
    return ok(name, f"gold rows by slice: {shown}")


def _latency(s: Subject) -> Finding:
    from eval.latency import MIN_SAMPLES

    slo, plan = s.task.gates.slo, s.task.eval.latency
    assert slo is not None
    share = 1.0 - (plan.hit_share if s.task.serving.head_queries else 0.0)
    samples, needed = int(plan.rate * plan.seconds * plan.repeats * share), MIN_SAMPLES[slo.percentile]
    if samples >= needed:
        return ok("gates.slo", f"about {samples:,} cache misses are measured, a {slo.percentile} needs {needed:,}")
    return bad(
        "gates.slo", f"about {samples:,} cache misses are measured, and a {slo.percentile} needs {needed:,}",
        "Raise eval.latency.seconds or .rate, or leave the rule out: --set gates.slo=null",
    )

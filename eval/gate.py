"""The gate: the rules of the task file, applied to the evidence of an evaluation.

A rule whose figure was not measured fails. Comparisons are non-inferiority tests with a stated margin: the whole
interval of the paired difference must lie above minus the margin, so that too few rows fail instead of passing.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict

from eval.formatting import beside, points
from eval.latency_schema import Percentiles, percentile_of
from eval.quality_schema import Estimate
from eval.report_schema import VerdictLine
from eval.significance import not_inferior
from task.settings import Gates
from task.validation import FaultKind


class Margins(TypedDict):
    """Paired differences, and the number of rows that they are measured on."""

    rows: int
    f1: Estimate
    recall: Estimate


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many labels of the engine and of the merged model are the same.

    Attributes:
        share: |A ∩ B| / |A ∪ B| over (row, label).
        labels: Number of labels compared, |A ∪ B|; None in verdicts that did not record it.
        queries: Which queries they are of, as text: `60 gold queries`.
    """

    share: float
    labels: int | None = None
    queries: str = ""


@dataclass(frozen=True, slots=True)
class GateEvidence:
    """What an evaluation measured; None for figures that were not measured.

    Attributes:
        f1: F1 of the served student.
        engine_agreement: On how many labels the engine and the merged model agree.
        invalid: Share of invalid answers (`task.validation`).
        invalid_kinds: How many of each kind.
        constrained: Whether decoding gives only labels that the task allows, so that no answer can break its rules.
        teacher: Differences to the teacher.
        teacher_slices: The same by traffic slice.
        released: Differences to the bundle that is released now; None where there is none.
        traffic: Differences to it on requests drawn from the traffic; None where none were drawn.
        slower: Relative latency difference to the released bundle (`eval.latency.times_as_slow`).
        ece: Expected calibration error of the probability that a whole labelling is right.
        latency: Latency of cache misses.
        latency_valid: Whether the latency run is valid.
        first_release: Whether there is no released bundle to compare with.
    """

    f1: Estimate | None = None
    engine_agreement: Agreement | None = None
    invalid: Estimate | None = None
    invalid_kinds: Mapping[FaultKind, int] | None = None
    constrained: bool = False
    teacher: Margins | None = None
    teacher_slices: Mapping[str, Margins] | None = None
    released: Margins | None = None
    traffic: Margins | None = None
    slower: Estimate | None = None
    ece: Estimate | None = None
    latency: Percentiles | None = None
    latency_valid: bool = True
    first_release: bool = True


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one rule.

    Attributes:
        rule: Its key in the task file.
        found: What was measured, as text.
        asked: What the rule requires, as text.
        what: What was measured, without figures: with the rule, the name of the check in every run.
    """

    rule: str
    ok: bool
    found: str
    asked: str
    evidence: Any = field(default=None)
    what: str = field(kw_only=True)

    @property
    def text(self) -> str:
        """One line of the verdict."""
        return f"{self.found} (gate {self.rule}: {self.asked})"

    def to_json(self) -> VerdictLine:
        """For the manifest and the report."""
        return {
            "rule": self.rule, "ok": self.ok, "found": self.found, "asked": self.asked, "evidence": self.evidence,
            "text": self.text,
        }


def judge(gates: Gates, e: GateEvidence) -> list[Check]:
    """Apply every rule that the task file sets."""
    out: list[Check] = []
    if gates.engine_label_agreement is not None:
        out.append(_agreement(e.engine_agreement, gates.engine_label_agreement))
    if gates.min_f1 is not None:
        out.append(_at_least("min_f1", None if e.f1 is None else e.f1["value"], gates.min_f1, "F1", "", e.f1))
    if gates.teacher_margin is not None:
        out += _margin("teacher_margin", e.teacher, gates.teacher_margin, "the teacher")
    if gates.slice_margin is not None:
        slices = {name: part for name, part in (e.teacher_slices or {}).items() if part["rows"] >= gates.slice_rows}
        for name, part in slices.items():
            out += _margin("slice_margin", part, gates.slice_margin, f"the teacher on {name} queries")
        if not slices:
            whom = "the teacher by slice"
            why = f" (no slice has {gates.slice_rows:,} rows, gates.slice_rows)" if e.teacher_slices else ""
            checks = _margin("slice_margin", None, gates.slice_margin, whom + why)
            out += [replace(check, what=f"difference to {whom}") for check in checks]
    if gates.released_margin is not None and not e.first_release:
        out += _margin("released_margin", e.released, gates.released_margin, "the released bundle")
    if gates.traffic_margin is not None and e.traffic is not None:
        out.append(_not_shown_lower(e.traffic, gates.traffic_margin))
    if gates.max_slower is not None and not e.first_release:
        out.append(_at_most(
            "max_slower", e.slower, gates.max_slower, "latency against the released bundle (paired median)", 100, "%"
        ))
    if gates.max_invalid is not None:
        share = None if e.invalid is None else e.invalid["value"]
        value: Estimate | None = None if e.invalid is None else {"value": share, "low": share, "high": share}
        check = _at_most("max_invalid", value, gates.max_invalid, _invalid_answers(e), 100, "%")
        evidence = None if e.invalid is None or share is None else {**e.invalid, "high": share}
        out.append(replace(check, what="invalid answers", evidence=evidence))
    if gates.max_ece is not None:
        out.append(_at_most("max_ece", e.ece, gates.max_ece, "expected calibration error (ECE)", 100, "%"))
    if gates.slo is not None:
        at = None if e.latency is None else percentile_of(e.latency, gates.slo.percentile)
        name = f"{gates.slo.percentile} latency of cache misses"
        if not e.latency_valid:
            said = f"{name}: the latency run is invalid"
            out.append(Check("slo", False, said, f"at most {gates.slo.ms:g} ms", what=name))
        else:
            out.append(_at_most("slo", at, gates.slo.ms, name, 1, "ms"))
    return out


def _invalid_answers(e: GateEvidence) -> str:
    """What the share of invalid answers counts."""
    kinds = [f"{kind.replace('_', ' ')} {n}" for kind, n in (e.invalid_kinds or {}).items()]
    if e.constrained:
        kinds.append("decoding rules out labels that the task does not allow")
    return f"invalid answers ({', '.join(kinds)})" if kinds else "invalid answers"


def passed(checks: list[Check]) -> bool:
    """Whether every check passed."""
    return all(c.ok for c in checks)


def junit(checks: list[Check], suite: str) -> str:
    """The checks as JUnit XML, which CI systems display and, by the names, follow from run to run."""
    root = ET.Element("testsuite", {
        "name": suite, "tests": str(len(checks)), "failures": str(sum(not c.ok for c in checks)), "errors": "0",
    })
    for check in checks:
        case = ET.SubElement(root, "testcase", {"classname": suite, "name": f"{check.rule}: {check.what}"})
        properties = ET.SubElement(case, "properties")
        for name, value in (("found", check.found), ("required", check.asked)):
            ET.SubElement(properties, "property", {"name": name, "value": value})
        if not check.ok:
            failure = ET.SubElement(case, "failure", {"message": f"{check.found}; required: {check.asked}"})
            failure.text = repr(check.evidence)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True)


def labels_to_show(share: float, confidence: float = 0.95) -> int | None:
    """How many labels must all agree to show that at least `share` of them do; None for 1, which no number shows.

    The smallest n with shareⁿ ≤ 1 − confidence: 299 for 99 %.
    """
    if share >= 1:
        return None
    return 1 if share <= 0 else math.ceil(math.log(1 - confidence) / math.log(share))


def _agreement(found: Agreement | None, least: float) -> Check:
    rule, asked, what = "engine_label_agreement", f"at least {100 * least:g} %", "engine and merged model agree on"
    if found is None:
        return Check(rule, False, f"{what}: not measured", asked, what="labels of engine and merged model")
    said = f"{what} {beside(100 * found.share, 100 * least, 2)} % of "
    said += "labels" if found.labels is None else f"{found.labels:,} labels of {found.queries}"
    needed = labels_to_show(least)
    if found.share >= least and found.labels is not None and needed is not None and found.labels < needed:
        said += f", fewer than the {needed:,} that it takes to show {100 * least:g} %"
    evidence = {"value": found.share, "labels": found.labels, "queries": found.queries}
    return Check(rule, found.share >= least, said, asked, evidence, what="labels of engine and merged model")


def _at_least(
    rule: str, found: float | None, least: float, what: str, of: str, evidence: Any = None
) -> Check:
    asked = f"at least {100 * least:g} %"
    if found is None:
        return Check(rule, False, f"{what}: not measured", asked, what=what)
    said = f"{what} {beside(100 * found, 100 * least, 2)} % {of}".rstrip()
    return Check(rule, found >= least, said, asked, found if evidence is None else dict(evidence), what=what)


def _at_most(rule: str, found: Estimate | None, most: float, what: str, scale: float, unit: str) -> Check:
    asked = f"at most {scale * most:g} {unit}"
    if found is None or found["value"] is None:
        return Check(rule, False, f"{what}: not measured, or too few samples", asked, what=what)
    value, high, limit = found["value"], found["high"], scale * most
    low = value if found["low"] is None else found["low"]
    ok = high is not None and high <= most  # an upper bound of None is infinite
    said = f"{what} {beside(scale * value, limit)}"
    if low != high:
        said += f" [{scale * low:.1f}, {'–' if high is None else f'{scale * high:.1f}'}]"
    said += f" {unit}"
    if not ok and value <= most:  # the value alone would look like a pass
        said += ", no upper bound" if high is None else f", upper bound {beside(scale * high, limit)} {unit}"
    return Check(rule, ok, said, asked, dict(found), what=what)


def _not_shown_lower(found: Margins, margin: float) -> Check:
    """F1 on few rows: they may leave open whether it is lower, and must not show it."""
    what, difference = "ΔF1 against the released bundle on drawn requests", found["f1"]
    ok = difference["high"] is not None and difference["high"] >= -margin
    said = f"{what} ({found['rows']:,}) {points(difference)}{_deciding('high', difference, margin)}"
    asked = "not shown to be lower" + (f" by more than {100 * margin:g} points" if margin else "")
    return Check("traffic_margin", ok, said, asked, dict(difference), what=what)


def _margin(rule: str, found: Margins | None, margin: float, whom: str) -> list[Check]:
    """Non-inferiority of F1 and of recall."""
    asked = f"non-inferiority margin {100 * margin:g} point{'' if margin == 0.01 else 's'}"
    if found is None:
        said = f"difference to {whom}"
        return [Check(rule, False, f"{said}: not measured", asked, what=said)]
    return [
        Check(
            rule, not_inferior(d, margin), f"Δ{name} against {whom} {points(d)}{_deciding('low', d, margin)}", asked,
            dict(d),
            what=f"Δ{name} against {whom}",
        )
        for name, d in (("F1", found["f1"]), ("recall", found["recall"]))
    ]


def _deciding(side: Literal["low", "high"], difference: Estimate, margin: float) -> str:
    """The bound for which a difference fails, where its figures with one decimal would look like a pass.

    A lower bound has to be above minus the margin; an upper one, which is judged for itself, at least minus the margin.
    """
    bound, limit = difference[side], 0 - 100 * margin
    shown = difference["value"] if side == "low" else bound
    if bound is None or shown is None or bound > -margin or round(100 * shown, 1) < limit:
        return ""
    if side == "high" and bound == -margin:
        return ""
    said = "below" if bound < -margin else "not above"
    return f", {'lower' if side == 'low' else 'upper'} bound {beside(100 * bound, limit)} points is {said} {limit:g}"

"""The gate: rules of the task file, evidence of an evaluation, and for each rule whether it holds.

A rule without evidence fails: what was not measured has not been shown. Rules that compare are non-inferiority tests
with a stated margin: the whole interval of the paired difference must lie above it, so that too few rows fail and do
not pass.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from eval.significance import not_inferior
from task.settings import Gates

Figure = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an evaluation found; None where it was not looked at.

    Attributes:
        f1: Of the served student.
        engine_agreement: Share of labels on which engine and merged model agree.
        invalid: Share of rows whose answer was no labelling.
        teacher: Differences to the teacher by `f1`, `recall`.
        teacher_slices: The same by traffic slice, with `rows`.
        released: Differences to the bundle that is released now; None where there is none.
        slower: Its median answer divided by the released one's, less 1, with an interval.
        ece: Of the probability that a labelling is right.
        latency: Percentiles of the student's answers, as `eval.latency` has them; `valid` with it.
    """

    f1: Figure | None = None
    engine_agreement: float | None = None
    invalid: Figure | None = None
    teacher: Mapping[str, Figure] | None = None
    teacher_slices: Mapping[str, Mapping[str, Any]] | None = None
    released: Mapping[str, Figure] | None = None
    slower: Figure | None = None
    ece: Figure | None = None
    latency: Mapping[str, Any] | None = None
    latency_valid: bool = True
    first_release: bool = True


@dataclass(frozen=True, slots=True)
class Check:
    """One rule.

    Attributes:
        rule: Its key in the task file.
        found: What was measured, for people.
        asked: What the rule asks for.
    """

    rule: str
    ok: bool
    found: str
    asked: str
    evidence: Any = field(default=None)

    @property
    def text(self) -> str:
        """One line for a person."""
        return f"{self.found} (gate {self.rule}: {self.asked})"

    def to_json(self) -> dict[str, Any]:
        """For the manifest and the report."""
        return {**asdict(self), "text": self.text}


def judge(gates: Gates, e: Evidence) -> list[Check]:
    """Every rule that the task file has."""
    out: list[Check] = []
    if gates.engine_label_agreement is not None:
        found = e.engine_agreement
        out.append(_at_least(
            "engine_label_agreement", found, gates.engine_label_agreement, "served = merged on", "of labels"
        ))
    if gates.min_f1 is not None:
        out.append(_at_least("min_f1", None if e.f1 is None else e.f1["value"], gates.min_f1, "F1", "", e.f1))
    if gates.teacher_margin is not None:
        out += _margin("teacher_margin", e.teacher, gates.teacher_margin, "the teacher")
    if gates.slice_margin is not None:
        for name, part in (e.teacher_slices or {}).items():
            if part["rows"] >= gates.slice_rows:
                out += _margin("slice_margin", part, gates.slice_margin, f"the teacher on {name} queries")
        if not e.teacher_slices:
            out += _margin("slice_margin", None, gates.slice_margin, "the teacher by slice")
    if gates.released_margin is not None and not e.first_release:
        out += _margin("released_margin", e.released, gates.released_margin, "the released bundle")
    if gates.max_slower is not None and not e.first_release:
        out.append(_at_most("max_slower", e.slower, gates.max_slower, "answers slower by (median of pairs)", 100, "%"))
    if gates.max_invalid is not None:
        value = None if e.invalid is None else {**e.invalid, "high": e.invalid["value"]}
        out.append(_at_most("max_invalid", value, gates.max_invalid, "invalid answers", 100, "%"))
    if gates.max_ece is not None:
        out.append(_at_most("max_ece", e.ece, gates.max_ece, "calibration error (ECE)", 100, "%"))
    if gates.slo is not None:
        at = None if e.latency is None else e.latency.get(f"{gates.slo.percentile}_ms")
        name = f"{gates.slo.percentile} of the student's answers"
        if not e.latency_valid:
            out.append(Check("slo", False, f"{name}: the latency run is invalid", f"at most {gates.slo.ms:g} ms"))
        else:
            out.append(_at_most("slo", at, gates.slo.ms, name, 1, "ms"))
    return out


def passed(checks: list[Check]) -> bool:
    """Whether all rules hold."""
    return all(c.ok for c in checks)


def junit(checks: list[Check], suite: str) -> str:
    """The checks as JUnit XML, which every CI shows."""
    root = ET.Element("testsuite", {
        "name": suite, "tests": str(len(checks)), "failures": str(sum(not c.ok for c in checks)), "errors": "0",
    })
    for number, check in enumerate(checks, 1):
        case = ET.SubElement(root, "testcase", {"classname": suite, "name": f"{number}. {check.rule}: {check.found}"})
        if not check.ok:
            failure = ET.SubElement(case, "failure", {"message": f"{check.found}; asked for: {check.asked}"})
            failure.text = repr(check.evidence)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True)


def _at_least(
    rule: str, found: float | None, least: float, what: str, of: str, evidence: Any = None
) -> Check:
    asked = f"at least {100 * least:g} %"
    if found is None:
        return Check(rule, False, f"{what}: not measured", asked)
    said = f"{what} {100 * found:.2f} % {of}".rstrip()
    return Check(rule, found >= least, said, asked, found if evidence is None else dict(evidence))


def _at_most(rule: str, found: Figure | None, most: float, what: str, scale: float, unit: str) -> Check:
    asked = f"at most {scale * most:g} {unit}"
    if found is None or found.get("value") is None:
        return Check(rule, False, f"{what}: not measured, or too few samples", asked)
    high = found["value"] if found.get("high") is None else found["high"]
    low = found["value"] if found.get("low") is None else found["low"]
    bounds = "" if low == high else f" [{scale * low:.1f}, {scale * high:.1f}]"
    # What is infinite above has no bound.
    ok = found.get("high", high) is not None and high <= most
    return Check(rule, ok, f"{what} {scale * found['value']:.1f}{bounds} {unit}", asked, dict(found))


def _margin(rule: str, found: Mapping[str, Any] | None, margin: float, whom: str) -> list[Check]:
    """F1 and recall, each not worse by more than the margin."""
    asked = f"not worse by more than {100 * margin:g} points"
    if found is None:
        return [Check(rule, False, f"difference to {whom}: not measured", asked)]
    out = []
    for name in ("f1", "recall"):
        d = found[name]
        label = "F1" if name == "f1" else name
        if d["value"] is None:
            out.append(Check(rule, False, f"{label} less that of {whom}: not defined", asked, dict(d)))
            continue
        said = f"{label} less that of {whom}: {100 * d['value']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]"
        out.append(Check(rule, not_inferior(d, margin), said, asked, dict(d)))
    return out



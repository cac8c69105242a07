"""Whether what has moved is worth a round of labelling and training: rules on `eval.drift`, and the sentence.

A figure has moved if chance does not explain it (Holm over all figures, so that calm weeks give a false alarm in at
most 5 of 100), if it has moved by a minimum that matters, and in the direction that harms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NotRequired, TypedDict

from eval.drift import Shift
from eval.formatting import p_value, percent, points
from eval.quality_schema import Estimate
from eval.significance import holm

ALPHA: Final = 0.05
ROLE: Final = "role "
"""Before the name of a role: the share of answers that have it."""

Kind = Literal["queries", "unseen words", "cache", "role", "expected error", "called wrong"]


@dataclass(frozen=True, slots=True)
class Rule:
    """When a change of a figure matters.

    Attributes:
        minimum: The smallest change that matters; a smaller one is no drift, however certain.
        harm: The sign of a change that harms; 0 for either.
        calls: Whether it calls for a round by itself. Others say that the traffic is another one, not that answers are
            worse.
        says: What has moved, for a sentence: with the values `now` and `before`.
    """

    minimum: float
    harm: Literal[-1, 0, 1]
    calls: bool
    says: str


# One point is the margin by which a student may be worse than its teacher in the gate (`gates.teacher_margin` of our
# tasks): a change that concerns a smaller share of the traffic cannot take it there. Roles may move by twice that,
# because a role that is asked for more often is not answered worse. The cache costs latency and engines, not quality,
# and a new one needs no training: five points of coverage are a twentieth more work for the engines at most coverages.
# A distance of 0.03 is as if 3 % of the traffic were unlike everything before. Clients judge what they choose to: five
# points of their verdicts may be one of them who has begun to complain.
RULES: Final[Mapping[Kind, Rule]] = {
    "queries": Rule(0.03, 1, False, "the queries differ from those of the release as if {now} were of another kind"),
    "unseen words": Rule(0.01, 1, True, "{now} of the traffic has words that the student has not seen ({before} at the "
                         "release)"),
    "cache": Rule(0.05, -1, False, "the head cache answers {now} of the traffic ({before} at the release)"),
    "role": Rule(0.02, 0, False, "{now} of the answers have the {name} ({before} at the release)"),
    "expected error": Rule(0.01, 1, True, "the student's expected error went from {before} to {now}"),
    "called wrong": Rule(0.05, 1, True, "clients call {now} of the answers that they judge wrong ({before} at the "
                         "release)"),
}


class Finding(TypedDict):
    """A figure in two periods, with the verdict on it.

    Attributes:
        reference: None for a distance.
        p: Of chance alone; `adjusted` for the number of figures (Holm 1979).
        minimum: The smallest change that matters.
        detectable: The smallest change that these samples would show; None for a distance.
        drifted: Whether it has moved, by all three rules.
        calls: Whether it then calls for a round.
    """

    reference: float | None
    current: float
    change: Estimate
    p: float
    adjusted: float
    minimum: float
    detectable: float | None
    drifted: bool
    calls: bool


class Verdict(TypedDict):
    """What drift there is.

    Attributes:
        drifted: Whether any figure has moved.
        round: Whether one of those calls for a round.
        sentence: The same in words.
        figures: By name.
        left_out: Why a figure is not among them, by name.
    """

    drifted: bool
    round: bool
    sentence: str
    figures: dict[str, Finding]
    left_out: dict[str, str]
    about: NotRequired[dict[str, object]]


def verdict(found: Mapping[str, Shift], left_out: Mapping[str, str] | None = None) -> Verdict:
    """Judge what was measured.

    Args:
        found: By name: a `Kind`, or a role's name after `ROLE`.
        left_out: Why a figure was not measured, by name.

    Raises:
        KeyError: A name without a rule.
    """
    adjusted = holm({name: shift.p for name, shift in found.items()})
    figures = {name: _judged(name, shift, adjusted[name]) for name, shift in found.items()}
    moved = {name: f for name, f in figures.items() if f["drifted"]}
    calls = any(f["calls"] for f in moved.values())
    return {
        "drifted": bool(moved), "round": calls, "sentence": _sentence(moved, calls=calls), "figures": figures,
        "left_out": dict(left_out or {}),
    }


def kind_of(name: str) -> Kind:
    """The rule that a figure is judged by; `KeyError` where there is none."""
    if name.startswith(ROLE):
        return "role"
    for kind in RULES:
        if name == kind:
            return kind
    raise KeyError(f"no rule for {name!r}; expected one of: {', '.join(RULES)}")


def _judged(name: str, shift: Shift, adjusted: float) -> Finding:
    rule, change = RULES[kind_of(name)], shift.change["value"]
    size = 0.0 if change is None else (change * rule.harm if rule.harm else abs(change))
    return {
        "reference": shift.reference, "current": shift.current, "change": shift.change, "p": shift.p,
        "adjusted": adjusted, "minimum": rule.minimum, "detectable": shift.detectable,
        "drifted": adjusted <= ALPHA and size >= rule.minimum, "calls": rule.calls,
    }


def _sentence(moved: Mapping[str, Finding], *, calls: bool) -> str:
    if not moved:
        return "Nothing has moved beyond what weeks of the same market differ by."
    order = sorted(moved, key=lambda n: (not moved[n]["calls"], list(RULES).index(kind_of(n)), n))
    said = [_said(name, moved[name]) for name in order]
    told = said[0] if len(said) == 1 else f"{', '.join(said[:-1])}, and {said[-1]}"
    if calls:
        return f"A round is worth its money: {told}."
    return (
        f"The traffic has moved, but nothing says that answers are worse: {told}. Label a sample of it before paying "
        "for a round."
    )


def _said(name: str, finding: Finding) -> str:
    before = "" if finding["reference"] is None else f"{100 * finding['reference']:.1f} %"
    return RULES[kind_of(name)].says.format(now=f"{100 * finding['current']:.1f} %", before=before, name=name)


def table(found: Verdict) -> str:
    """The figures as a Markdown table, the sentence, and what was left out."""
    lines = ["| | reference, % | now, % | change, points | p (Holm) | matters from | detectable | |",
             "|---|---|---|---|---|---|---|---|"]
    for name, f in found["figures"].items():
        distance = f["reference"] is None
        cells = (
            name, "–" if distance else f"{100 * (f['reference'] or 0.0):.1f}", f"{100 * f['current']:.1f}",
            percent(f["change"]) if distance else points(f["change"]), p_value(f["adjusted"]),
            f"{100 * f['minimum']:g}", "–" if f["detectable"] is None else f"{100 * f['detectable']:.1f}",
            "drift" if f["drifted"] else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", found["sentence"]]
    lines += [f"Not measured: {name} ({why})." for name, why in found["left_out"].items()]
    return "\n".join(lines)

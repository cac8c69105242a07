"""Whether a student's answer obeys the task: the one definition for student, gateway, gate and scorer.

An answer has a fault if it cannot be read, was cut off, or has a label that the task does not allow. Guardrails
(`teacher.guardrails`) ask more of a teacher's labels; they are no part of this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from task.labels import Label, Labelling, ordered, surest_first
from task.spec import Task

FaultKind = Literal["unreadable", "truncated", "unknown_value", "rule", "too_long"]
FAULTS: Final[dict[FaultKind, str]] = {
    "unreadable": "the output is not a labelling: no JSON, a symbol out of place, scores that are not numbers",
    "truncated": "the output ends before the labelling does",
    "unknown_value": "a role or a closed value that the task does not have",
    "rule": "a label breaks a rule of the task: its text, its span, the number of values, `requires`, `excludes`",
    "too_long": "the query has more tokens than the engine takes, so the student was not asked",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an answer cannot be used; `detail` is a clause for people."""

    kind: FaultKind
    detail: str


def violation(task: Task, query: str, labels: Sequence[Label]) -> Fault | None:
    """The first rule of the task that the labels of a query break; None if they break none."""
    seen: Counter[str] = Counter()
    for label in labels:
        fault = label_fault(task, query, label)
        if fault is not None:
            return fault
        role = task.role(label.role)
        if not role.multiple and label.role in seen:
            return Fault("rule", f"two values of {label.role!r}, which takes one")
        seen[label.role] += 1
        if role.kind == "text" and seen[label.role] > role.most_texts:
            return Fault("rule", f"more than {role.most_texts} values of {label.role!r}")
    for name in sorted(seen):
        role = task.role(name)
        if role.requires and not seen.keys() & set(role.requires):
            return Fault("rule", f"{name!r} without {' or '.join(map(repr, role.requires))}, which it requires")
        rival = next((x for x in role.excludes if x in seen), None)
        if rival is not None:
            return Fault("rule", f"{name!r} with {rival!r}, which it excludes")
    return None


def label_fault(task: Task, query: str, label: Label) -> Fault | None:
    """What is wrong with a label by itself; None if nothing is."""
    problem = task.label_problem(query, label.role, label.text)
    role = next((r for r in task.roles if r.name == label.role), None)
    if role is None or (problem is not None and role.kind == "closed"):
        return Fault("unknown_value", problem or "unknown role")
    if problem is not None:
        return Fault("rule", problem)
    if role.kind != "open":
        if label.start is not None or label.end is not None:
            return Fault("rule", f"a span for the {role.kind} role {role.name!r}")
    elif label.start is None or label.end is None or not 0 <= label.start < label.end <= len(query):
        return Fault("rule", f"{role.name!r} has no span in the query")
    elif query[label.start : label.end] != label.text:
        return Fault("rule", f"{role.name!r} is {label.text!r}, its span {query[label.start : label.end]!r}")
    if label.confidence is not None and not 0.0 <= label.confidence <= 1.0:
        return Fault("rule", f"a confidence of {label.confidence:g}")
    return None


def resolve(task: Task, labels: Iterable[Label]) -> Labelling:
    """Drop what `excludes` and `requires` do not allow, as the guardrails do with a teacher's labels.

    A student decides every role by itself. Of two roles that exclude each other, the one with the more probable label
    stays.
    """
    labels = tuple(labels)
    rules = {r.name: r for r in task.roles}
    if not any(rules[x.role].requires or rules[x.role].excludes for x in labels if x.role in rules):
        return labels
    excludes = {x.role: rules[x.role].excludes if x.role in rules else () for x in labels}
    requires = {x.role: rules[x.role].requires if x.role in rules else () for x in labels}
    kept: list[Label] = []
    for label in surest_first(labels):
        others = {k.role for k in kept} - {label.role}
        if not any(o in excludes[label.role] or label.role in excludes[o] for o in others):
            kept.append(label)
    while True:  # a role that is dropped may be the one that another requires
        have = {k.role for k in kept}
        stay = [k for k in kept if not requires[k.role] or have & set(requires[k.role])]
        if len(stay) == len(kept):
            return ordered(stay)
        kept = stay

"""Error analysis: the kinds of errors that a system makes, and how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from eval.matching import key_of
from eval.report_schema import ErrorAnalysis
from task.labels import Example, Label, over
from task.normalize import normaliser
from task.spec import Task

KINDS: Final[Mapping[str, str]] = {
    "missed": "a gold label without a matching prediction",
    "invented": "a predicted label without a matching gold label",
    "extent": "right role, wrong span boundaries",
    "role": "right span, wrong role",
    "extent and role": "overlapping span, wrong role",
    "value": "closed or text role, wrong value",
}


@dataclass(frozen=True, slots=True)
class Mistake:
    """One error: a missed gold label, a spurious predicted label, or a pair of both that differ."""

    kind: str
    gold: Label | None
    predicted: Label | None

    @property
    def role(self) -> str:
        """The role of the error: that of the gold label if there is one."""
        label = self.gold or self.predicted
        return label.role if label else ""

    @property
    def key(self) -> tuple[Any, ...]:
        """Identity without confidence, equal for two systems that make the same error."""
        return self.kind, self.gold and self.gold.key, self.predicted and self.predicted.key


def mistakes(gold: Example, predicted: Example, normalise: Callable[[str], str]) -> list[Mistake]:
    """The errors of one row, by (role, normalised value) as the score counts them.

    Right labels are removed. Each remaining gold label is paired with the most similar remaining prediction (same span
    first, then same role, then most characters in common), each at most once.
    """
    missing, extra = list(gold.labels), list(predicted.labels)
    for label in gold.labels:
        same = next((x for x in extra if key_of(x, "value", normalise) == key_of(label, "value", normalise)), None)
        if same is not None:
            missing.remove(label)
            extra.remove(same)
    pairs = [
        (alike, -i, -j) for i, g in enumerate(missing) for j, p in enumerate(extra)
        if (alike := _likeness(g, p)) is not None
    ]
    mine: dict[int, int] = {}
    for _, i, j in sorted(pairs, reverse=True):
        if -i not in mine and -j not in mine.values():
            mine[-i] = -j
    out = [Mistake(_kind(g, extra[mine[i]]), g, extra[mine[i]]) if i in mine else Mistake("missed", g, None)
           for i, g in enumerate(missing)]
    return out + [Mistake("invented", None, p) for j, p in enumerate(extra) if j not in mine.values()]


def by_kind(
    gold: Sequence[Example], predicted: Sequence[Example], task: Task, *, slices: Sequence[str] | None = None,
    other: Sequence[Example | None] | None = None,
) -> ErrorAnalysis:
    """Count the errors of each kind, most frequent first; kinds that do not occur are left out.

    Args:
        slices: A name per row; without it all rows are one slice, `all`.
        other: Another system's predictions, such as the teacher's, to count the errors that both make; None for a row
            that it has no answer to.
    """
    normalise = normaliser(task.normaliser)
    where = slices or ["all"] * len(gold)
    names = sorted(set(where))
    found: dict[str, _Tally] = {}
    for row, (g, p) in enumerate(zip(gold, predicted, strict=True)):
        theirs = other[row] if other is not None else None
        shared = None if theirs is None else {m.key for m in mistakes(g, theirs, normalise)}
        for m in mistakes(g, p, normalise):
            tally = found.setdefault(m.kind, _Tally())
            tally.slices[where[row]] += 1
            tally.roles[m.role] += 1
            if shared is not None:
                tally.compared += 1
                tally.shared += m.key in shared
    labels = dict.fromkeys(names, 0)
    for name, g in zip(where, gold, strict=True):
        labels[name] += len(g.labels)
    return {"slices": names, "labels": labels, "rows": [{
        "kind": kind, "means": KINDS[kind], "count": {name: t.slices[name] for name in names},
        "shared": round(t.shared / t.compared, 4) if t.compared else None,
        "roles": dict(sorted(t.roles.items(), key=lambda x: (-x[1], x[0]))),
    } for kind, t in sorted(found.items(), key=lambda x: -x[1].slices.total())]}


@dataclass(slots=True)
class _Tally:
    """Errors of one kind, by slice and by role, and how many of those compared the other system makes too."""

    slices: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    shared: int = 0
    compared: int = 0


def _likeness(gold: Label, predicted: Label) -> tuple[int, int, int] | None:
    """(same words, same role, characters in common), None where nothing connects the two."""
    if gold.start is None or gold.end is None:
        return (0, 1, 1) if predicted.start is None and predicted.role == gold.role else None
    if predicted.start is None or predicted.end is None or not over(predicted, gold.start, gold.end):
        return None
    common = min(gold.end, predicted.end) - max(gold.start, predicted.start)
    same = (gold.start, gold.end) == (predicted.start, predicted.end)
    return int(same), int(gold.role == predicted.role), common


def _kind(gold: Label, predicted: Label) -> str:
    if gold.start is None:
        return "value"
    if gold.role == predicted.role:
        return "extent"
    return "role" if (gold.start, gold.end) == (predicted.start, predicted.end) else "extent and role"

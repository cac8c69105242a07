"""What kind of mistake a wrong label is, so that one knows where the rest is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eval.matching import key_of
from task.labels import Example, Label, over
from task.normalize import normaliser
from task.spec import Task

KINDS: Final[Mapping[str, str]] = {
    "missed": "a label of gold that nothing answers to",
    "invented": "a label that answers to nothing in gold",
    "extent": "the right role on too many or too few words",
    "role": "the right words, another role",
    "extent and role": "words in common, another role",
    "value": "a closed role with another value",
}


@dataclass(frozen=True, slots=True)
class Mistake:
    """A label of gold that was not found, a label that is not in gold, or one that was taken for the other."""

    kind: str
    gold: Label | None
    predicted: Label | None

    @property
    def role(self) -> str:
        """The role that is wrong: gold's where there is one."""
        label = self.gold or self.predicted
        return label.role if label else ""

    @property
    def key(self) -> tuple[Any, ...]:
        """Identity without confidence: two systems that err alike have the same."""
        return self.kind, self.gold and self.gold.key, self.predicted and self.predicted.key


def mistakes(gold: Example, predicted: Example, normalise: Callable[[str], str]) -> list[Mistake]:
    """The mistakes of one row, by (role, normalised value) as the score counts them.

    What is right is set aside; of the rest every label of gold is paired with the prediction that shares most with it
    (same words first, then same role, then most characters in common), each at most once.
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
    gold: Sequence[Example], predicted: Sequence[Example], task: Task, slices: Sequence[str] | None = None,
    other: Sequence[Example] | None = None,
) -> dict[str, Any]:
    """How often each kind of mistake is made.

    Args:
        slices: A name per row; without it all rows are one slice, `all`.
        other: Another system's predictions, such as the teacher's, to see which mistakes both make.

    Returns:
        `{"slices": names, "labels": {slice: labels of gold}, "rows": [{"kind", "means", "count": {slice: n}, "shared":
        share that `other` makes likewise or None, "roles": {role: n}}]}`; kinds that do not occur are left out.
    """
    normalise = normaliser(task.normaliser)
    where = slices or ["all"] * len(gold)
    names = sorted(set(where))
    found: dict[str, dict[str, Any]] = {}
    for row, (g, p) in enumerate(zip(gold, predicted, strict=True)):
        theirs = {m.key for m in mistakes(g, other[row], normalise)} if other is not None else set()
        for m in mistakes(g, p, normalise):
            entry = found.setdefault(m.kind, {"count": dict.fromkeys(names, 0), "alike": 0, "roles": {}})
            entry["count"][where[row]] += 1
            entry["alike"] += m.key in theirs
            entry["roles"][m.role] = entry["roles"].get(m.role, 0) + 1
    labels = dict.fromkeys(names, 0)
    for name, g in zip(where, gold, strict=True):
        labels[name] += len(g.labels)
    return {"slices": names, "labels": labels, "rows": [{
        "kind": kind, "means": KINDS[kind], "count": e["count"],
        "shared": None if other is None else round(e["alike"] / sum(e["count"].values()), 4),
        "roles": dict(sorted(e["roles"].items(), key=lambda x: (-x[1], x[0]))),
    } for kind, e in sorted(found.items(), key=lambda x: -sum(x[1]["count"].values()))]}


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

"""Labels and labellings: what was extracted from a query."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from task.word_borders import occurrences


@dataclass(frozen=True, slots=True)
class Label:
    """A role with its value.

    Attributes:
        role: Name of the role, one of the task's.
        text: The value: for an open role the words of the query, verbatim; for a closed role one of its values;
            for a text role other words for the query.
        start: First character of the span in the query; None for a closed or text role.
        end: One past the last character; None for a closed or text role.
        confidence: Probability in [0, 1] that the label is right, or None without an estimate.
    """

    role: str
    text: str
    start: int | None = None
    end: int | None = None
    confidence: float | None = None

    @property
    def key(self) -> tuple[str, str, int, int]:
        """Identity without the confidence, sortable."""
        return (self.role, self.text, -1 if self.start is None else self.start, -1 if self.end is None else self.end)

    def to_json(self) -> dict[str, Any]:
        """The exchange format of `docs/task-file.md`: keys without a value are left out."""
        out: dict[str, Any] = {"role": self.role, "text": self.text}
        if self.start is not None:
            out |= {"start": self.start, "end": self.end}
        if self.confidence is not None:
            out["confidence"] = round(self.confidence, 6)
        return out

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Label:
        """The inverse of `to_json`, for files that we wrote ourselves (`task.readers` reads users' files)."""
        return cls(row["role"], row["text"], row.get("start"), row.get("end"), row.get("confidence"))


Labelling = tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Doubt:
    """A part of a labelling that is masked in the loss: words of the query, or a closed role as a whole.

    Attributes:
        role: The closed role, or the role of the words' label; empty for words without a label.
        start: First character, or None for a closed role.
        end: One past the last character, or None for a closed role.
    """

    role: str
    start: int | None = None
    end: int | None = None

    @classmethod
    def of(cls, label: Label) -> Doubt:
        """The part that a label covers."""
        return cls(label.role, label.start, label.end)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in a curriculum's rows."""
        return {"role": self.role, "start": self.start, "end": self.end}


@dataclass(frozen=True, slots=True)
class Example:
    """A query with its labelling, its traffic count and, where it has one, its id.

    Attributes:
        doubt: `partial` or `uncertain`, where a labelling job's table says that the labels are not to be learned.
        reason: Why, as that table says.
    """

    query: str
    labels: Labelling = ()
    count: int = 1
    id: str | None = None
    doubt: str = ""
    reason: str = ""

    def label(self, role: str) -> Label | None:
        """The label of a role that can have one; of several the first."""
        return next((x for x in self.labels if x.role == role), None)

    def value(self, role: str) -> str | None:
        """The text of `label`."""
        found = self.label(role)
        return None if found is None else found.text

    def to_json(self) -> dict[str, Any]:
        """One row of a gold, label or prediction file."""
        out: dict[str, Any] = {} if self.id is None else {"id": self.id}
        return out | {"query": self.query, "count": self.count, "labels": [x.to_json() for x in self.labels]}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Example:
        """The inverse of `to_json`, for files that we wrote ourselves (`task.readers` reads users' files)."""
        return cls(row["query"], tuple(Label.from_json(x) for x in row["labels"]), row["count"], row.get("id"))


def surest_first(labels: Iterable[Label]) -> list[Label]:
    """The more confident label first, one without an estimate last; those of equal confidence keep their order."""
    return sorted(labels, key=lambda x: -(x.confidence or 0.0))


def over(span: Label | Doubt, start: int, end: int) -> bool:
    """Whether a span overlaps [start, end); False for a label without a span."""
    return span.start is not None and span.end is not None and span.start < end and start < span.end


def ordered(labels: Iterable[Label]) -> Labelling:
    """Canonical order: open labels by position, then closed ones by role and value."""
    return tuple(sorted(labels, key=place))


def place(label: Label) -> tuple[bool, int, int, str, str]:
    """Sort key of the canonical order."""
    return label.start is None, label.start or 0, label.end or 0, label.role, label.text


def locate(query: str, labels: Sequence[Label]) -> Labelling:
    """Add spans to labels without one: equal labels get one occurrence of the text each, first those at word borders.

    Raises:
        ValueError: A text does not occur (often enough) in the query; the message names it.
    """
    taken: dict[tuple[str, str], list[int]] = defaultdict(list)
    for label in labels:
        if label.start is not None:
            taken[label.role, label.text].append(label.start)
    out = []
    for label in labels:
        if label.start is None:
            before, size = taken[label.role, label.text], len(label.text)
            free = (at for at in occurrences(query, label.text) if all(abs(at - x) >= size for x in before))
            start = next(free, None)
            if start is None:
                raise ValueError(f"{label.text!r} does not occur {'again ' if before else ''}in {query!r}")
            label = replace(label, start=start, end=start + size)
            before.append(start)
        out.append(label)
    return tuple(out)


def span_problem(query: str, text: str, *, start: object, end: object) -> str | None:
    """Why `start` and `end`, as a file gives them, are not the place of `text` in the query; None if they are.

    Python's slices accept offsets before the beginning and past the end, and take `True` for 1; a span must not.
    """
    for name, value in (("start", start), ("end", end)):
        if not isinstance(value, int) or isinstance(value, bool):
            return f"{name} is {value!r}, not a whole number"
    assert isinstance(start, int)
    assert isinstance(end, int)
    if not 0 <= start < end <= len(query):
        return f"[{start}:{end}] is not inside the query {query!r} of {len(query)} characters"
    if query[start:end] != text:
        return f"[{start}:{end}] of {query!r} is {query[start:end]!r}, it is not {text!r}"
    return None


def nth_occurrence(query: str, text: str, nth: int) -> int:
    """Start of the `nth` (from 0) non-overlapping occurrence of `text`, or -1."""
    if not text:
        return -1
    at = -len(text)
    for _ in range(nth + 1):
        at = query.find(text, at + len(text))
        if at < 0:
            return -1
    return at

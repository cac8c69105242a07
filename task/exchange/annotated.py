"""What a reader of an annotation tool's file yields, and what it or a writer could not carry over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from task.labels import Example

State = Literal["labelled", "skipped", "machine"]
Reason = Literal[
    "relation", "unsupported result", "per region", "unlabelled region", "note", "comment", "column", "draft",
    "only predicted", "not annotated", "labels of a skip", "other annotation",
    "status", "repeated value", "category", "closed role",
    "span",
]
REASONS: Final[Mapping[Reason, str]] = {
    "relation": "a relation between two spans",
    "unsupported result": "a result of another kind than spans, choices and texts, such as a rectangle or a rating",
    "per region": "a choice or a text about one span instead of the whole query",
    "unlabelled region": "a marked span without a label",
    "note": "a note at a span",
    "comment": "an annotator's comment, or a comment line that is not ours",
    "column": "a column or field that is neither the query nor a role",
    "draft": "an annotation that was begun and not submitted",
    "only predicted": "a prediction that nobody has reviewed (`--predictions` takes it)",
    "not annotated": "a query that nobody has annotated yet",
    "labels of a skip": "labels of an annotation that was cancelled",
    "other annotation": "an annotation of a query of which another one was taken (`--people` writes all)",
    "status": "the status partial or uncertain of a labelling job: a reviewed label has none",
    "repeated value": "a value that the query has twice for the same role",
    "category": "a closed label whose name cannot be told from another role's",
    "closed role": "a closed role, in a project that has spans only",
    "span": "a span, in a project of classes only; or one that begins or ends inside a grapheme cluster",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: a line of a file, or an item of a JSON list, such as `task 17`."""

    file: Path | str
    line: int | None = None
    item: str = ""

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f':{self.line}'}{f': {self.item}' if self.item else ''}"


@dataclass(frozen=True, slots=True)
class Annotated:
    """One person's or model's labels of a query.

    Attributes:
        example: The query with its labels; without labels where the state is `skipped`.
        place: Where it stands. Annotations of one item by several people have the same place.
        person: Name, address or number of the annotator, as the tool has it; None where it has none.
        at: When the annotation was made, as the tool writes it (ISO 8601); None where it says nothing.
        state: `labelled` by a person, `skipped` by a person, or `machine` for a prediction.
    """

    example: Example
    place: Place
    person: str | None = None
    at: str | None = None
    state: State = "labelled"


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that could not be carried over; `what` names it, `reason` is a key of `REASONS`."""

    reason: Reason
    what: str
    place: Place


def by_reason(losses: Iterable[Loss]) -> dict[Reason, list[Loss]]:
    """The losses of each reason, in the order of `REASONS`."""
    found: dict[Reason, list[Loss]] = {reason: [] for reason in REASONS}
    for loss in losses:
        found[loss.reason].append(loss)
    return {reason: group for reason, group in found.items() if group}

"""What clients said of answers (`POST /v1/feedback`): right, wrong, other labels, what was bought; one file a day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from task.captures import entries_between
from task.fields import Row
from task.labels import Label, Labelling

FOLDER: Final = "feedback"
"""In a service's state folder."""

Kind = Literal["right", "wrong", "labels", "item"]
KINDS: Final[tuple[Kind, ...]] = ("right", "wrong", "labels", "item")


@dataclass(frozen=True, slots=True)
class Feedback:
    """What one request said of one query.

    Attributes:
        query: Its text; None where only its hash is kept.
        keyed_hash: HMAC-SHA-256 of the normalised text, as in captures; None where the text is kept.
        kind: `right` or `wrong`: the answer; `labels`: it should have been these; `item`: was bought after the query.
        task: Name of the task.
        bundle: Id of the bundle whose answer is meant; None where the client did not say.
        labels: Of the kind `labels`, with spans; they may be none. None for other kinds.
        item: Id of the item, of the kind `item`.
        count: How often that was so, at least 1.
        at: When it came, in seconds since 1970.
    """

    query: str | None
    keyed_hash: str | None
    kind: Kind
    task: str
    bundle: str | None
    labels: Labelling | None
    item: str | None
    count: int
    at: float

    def judges(self, bundle: str | None) -> bool:
        """Whether it is a verdict on answers of this bundle, or on no particular bundle's."""
        return self.kind != "item" and self.bundle in {None, bundle}

    @property
    def wrong(self) -> bool:
        """Of a verdict: whether the answer was wrong; other labels than the answer's are a wrong."""
        return self.kind != "right"

    def row(self) -> dict[str, Any]:
        """The line of the file; what is None is left out."""
        row = {name: getattr(self, name) for name in self.__slots__}
        if self.labels is not None:
            row["labels"] = [x.to_json() for x in self.labels]
        return {name: value for name, value in row.items() if value is not None}


def read_feedback(folder: Path, *, since: float = 0.0, until: float = float("inf")) -> Iterator[Feedback]:
    """The feedback of a folder that came in `[since, until)`, day by day.

    Raises:
        InputError: A line is not what a service writes.
    """
    yield from entries_between(folder, _feedback, "feedback", since=since, until=until)


def _feedback(row: Row) -> Feedback:
    kind: Kind = KINDS[KINDS.index(row["kind"])]
    labels = tuple(map(Label.from_json, row["labels"])) if kind == "labels" else None
    return Feedback(
        query=row.get("query"), keyed_hash=row.get("keyed_hash"), kind=kind, task=str(row["task"]),
        bundle=row.get("bundle"), labels=labels, item=str(row["item"]) if kind == "item" else None,
        count=int(row["count"]), at=float(row["at"]),
    )

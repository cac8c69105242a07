"""What a student predicts for the queries of the ledger, from what is on disk.

Of a query that several sources have, the later one in this list counts: suspect labels of the stage `cross-fit`, of
which only the disagreement is known; predictions for the gold rows by the stage `evaluate`; a file of `limbeck
predict`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from limbeck.artefacts import Entry, Folder, RunFolder
from limbeck.console.label_block import AGREES, DISAGREES, UNKNOWN, hash_of
from limbeck.console.label_filter import fold
from limbeck.judging.offline_systems import MERGED
from limbeck.judging.served import SERVED
from task.errors import InputError
from task.table_files import rows_of
from teacher.ledger.records import UNANSWERED

NONE: Final = (
    "There are no predictions of a student to compare with. Label the log with the student "
    "(`limbeck predict`), and put the result into the run folder as console/predictions.jsonl."
)
Prediction = tuple[str, int | None, float | None]  # query, digest of the labels, up to when it holds (seconds)


class ConsoleFolder(Folder):
    """What the console keeps in a run folder."""

    index = Entry("labels.sqlite")  # of the ledger's rows; made again where it is missing
    predictions = Entry("predictions.jsonl")  # of `limbeck predict` over the log, put there by a person


def digest_of(labels: Iterable[Mapping[str, Any]]) -> int:
    """A hash of what two labellings are compared by: roles and texts, in any case and order."""
    counts = Counter((str(x["role"]), fold(str(x["text"]))) for x in labels)
    return hash_of(json.dumps(sorted(counts.items())))


def agreement(status: str, digest: int, updated: float, found: tuple[int | None, float | None] | None) -> int:
    """Whether a student's labels are those of a row; without an answer of the teacher that is not known.

    Args:
        found: Digest of the student's labels, None if they differ in any case, and up to when it holds.
    """
    if found is None or status in UNANSWERED:
        return UNKNOWN
    predicted, until = found
    if until is not None and updated > until:
        return UNKNOWN
    return AGREES if predicted == digest else DISAGREES


class StudentLabels:
    """The sources that are there at this moment."""

    def __init__(self, run: RunFolder) -> None:
        evaluated = (run.evaluate.predictions(name) for name in (MERGED, SERVED))
        self._suspects = run.folder / "cross-fit" / "suspects.jsonl"
        self._files = [*evaluated, ConsoleFolder(run.folder / "console").predictions]

    def signature(self) -> list[list[Any]]:
        """Changes when a source does; empty without any."""
        present = [p for p in (self._suspects, *self._files) if p.exists()]
        return [[p.name, (s := p.stat()).st_mtime_ns, s.st_size] for p in present]

    def read(self) -> Iterator[Prediction]:
        """All predictions, the better sources last.

        Raises:
            InputError: A line is not a prediction.
        """
        if self._suspects.exists():
            until = self._suspects.stat().st_mtime
            for line, row in rows_of(self._suspects):
                yield _query(self._suspects, line, row), None, until
        for path in self._files:
            if path.exists():
                for line, row in rows_of(path):
                    yield _query(path, line, row), _digest(path, line, row), None


def _query(path: Path, line: int, row: Mapping[str, Any]) -> str:
    query = row.get("query")
    if not isinstance(query, str):
        raise InputError("no text", file=path, line=line, field="query", found=query, expected="the query")
    return query


def _digest(path: Path, line: int, row: Mapping[str, Any]) -> int | None:
    """None for an invalid answer, with which no labels of a teacher agree."""
    if row.get("status") == "invalid":
        return None
    labels = row.get("labels")
    if not isinstance(labels, list) or not all(isinstance(x, Mapping) and {"role", "text"} <= x.keys() for x in labels):
        raise InputError(
            "no labels", file=path, line=line, field="labels", found=labels,
            expected="a list of labels, as `limbeck predict` writes it",
        )
    return digest_of(labels)

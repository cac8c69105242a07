"""`limbeck score`: quality of a prediction file; the task's roles are inferred from the labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.annotator_agreement import ceiling
from eval.prediction_files import Prediction, read_predictions
from eval.quality import quality
from eval.quality_schema import Agreement, Quality
from eval.slices import slices_of
from task.errors import InputError
from task.labels import Example
from task.readers import read_labels
from task.spec import Task
from task.table_files import rows_of
from task.validation import FaultKind


class Score(Quality):
    """Quality of a prediction file; `missing` queries have no prediction."""

    missing: int
    people: Agreement | None


def score_files(
    gold: Path, predictions: Path, *, resamples: int, by: Sequence[str] = (), annotations: Sequence[Path] = ()
) -> Score:
    """Quality of a prediction file; a query without a prediction, or with an invalid one, counts as an empty answer.

    Args:
        by: Columns of the gold file to slice by, in addition to the number of words and of labels.
        annotations: Labels of the same queries by several annotators; adds their agreement.

    Raises:
        InputError: Gold is malformed, a prediction has no query or one that gold lacks, or a column does not exist.
    """
    task = task_of(gold, predictions, *annotations, resamples=resamples)
    truth = read_labels(gold, task, columns=by)
    rows, invalid, missing = aligned(truth, predictions, task)
    if truth and missing == len(truth):
        raise InputError("no gold query has a prediction", file=predictions, expected="the gold file's queries")
    columns = {name: _column(gold, name) for name in by}
    slices = slices_of(truth, task, columns=columns)
    people = ceiling(truth, [read_labels(a, task) for a in annotations], task) if annotations else None
    return {**quality(truth, rows, task, slices=slices, invalid=invalid), "missing": missing, "people": people}


def aligned(
    truth: Sequence[Example], predictions: Path, task: Task
) -> tuple[list[Example], list[FaultKind | None], int]:
    """Predictions in the order of gold, why each is invalid, and how many queries have none.

    Raises:
        InputError: A prediction is for no gold query.
    """
    found = {p.row.query: p for p in read_predictions(predictions, task)}
    known = {g.query for g in truth}
    stray = next((q for q in found if q not in known), None)
    if stray is not None:
        raise InputError(
            "a prediction for a query that gold does not have", file=predictions, found=stray,
            expected="the gold file's queries",
        )
    rows = [found.get(g.query, Prediction(Example(g.query), None)) for g in truth]
    return [p.row for p in rows], [p.fault for p in rows], sum(g.query not in found for g in truth)


def task_of(gold: Path, *predictions: Path, resamples: int) -> Task:
    """A task with the roles that occur; a role with gold values that are not in their query is closed."""
    values: dict[str, set[str]] = {}
    closed: set[str] = set()
    for path in (gold, *predictions):
        for _, row in rows_of(path):
            labels = row.get("labels")
            for label in labels if isinstance(labels, list) else ():
                if isinstance(label, dict) and isinstance(label.get("role"), str):
                    text = str(label.get("text"))
                    values.setdefault(label["role"], set()).add(text)
                    if path == gold and label.get("start") is None and text not in str(row.get("query")):
                        closed.add(label["role"])
    roles = [
        {"name": n, "kind": "closed", "values": sorted(v)} if n in closed else {"name": n} for n, v in values.items()
    ]
    return Task.model_validate({
        "name": "score", "roles": roles or [{"name": "none"}], "teacher": {"backend": "labels"},
        "data": {"dir": ".", "labels": "none", "max_query_chars": 1_000_000}, "eval": {"resamples": resamples},
    })


def _column(source: Path, name: str) -> list[str]:
    found = [row.get(name) for _, row in rows_of(source)]
    if all(x is None for x in found):
        raise InputError("no row has this column", file=source, field=name, fix="Name a column of the gold file")
    return ["none" if x is None else str(x) for x in found]

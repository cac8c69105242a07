"""`limbeck score`: two files in, figures out; the task is read off the gold labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval.quality import quality
from task.errors import InputError
from task.io import read_labels, rows_of
from task.labels import Example
from task.spec import Task


def score_files(gold: Path, predictions: Path, resamples: int) -> dict[str, Any]:
    """Quality of a prediction file; a query without a prediction counts as an empty one.

    Raises:
        InputError: Either file is malformed, or a prediction is for no gold query.
    """
    task = _task_of(gold, predictions, resamples)
    truth = read_labels(gold, task)
    found = {p.query: p for p in read_labels(predictions, task)}
    known = {g.query for g in truth}
    stray = next((q for q in found if q not in known), None)
    if stray is not None:
        raise InputError(
            "a prediction for a query that gold does not have", file=predictions, found=stray,
            expected="the gold file's queries",
        )
    rows = [found.get(g.query, Example(g.query)) for g in truth]
    return {**quality(truth, rows, task), "missing": sum(g.query not in found for g in truth)}


def _task_of(gold: Path, predictions: Path, resamples: int) -> Task:
    """A task whose roles are those that occur; a role whose labels have texts that are not in the query is closed."""
    values: dict[str, set[str]] = {}
    closed: set[str] = set()
    for path in (gold, predictions):
        for _, row in rows_of(path):
            for label in row.get("labels") or ():
                if isinstance(label, dict) and isinstance(label.get("role"), str):
                    text = label.get("text")
                    values.setdefault(label["role"], set()).add(str(text))
                    if label.get("start") is None and str(text) not in str(row.get("query")):
                        closed.add(label["role"])
    roles = [
        {"name": n, "kind": "closed", "values": sorted(v)} if n in closed else {"name": n} for n, v in values.items()
    ]
    return Task.model_validate({
        "name": "score", "roles": roles or [{"name": "none"}], "teacher": {"backend": "labels"},
        "data": {"dir": ".", "labels": "none", "max_query_chars": 1_000_000}, "eval": {"resamples": resamples},
    })

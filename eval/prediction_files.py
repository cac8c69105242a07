"""Prediction files: one row per query. No row is dropped: what an invalid answer is, `task.validation` says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from task.errors import InputError
from task.labels import Example, Label, locate, ordered
from task.spec import Task
from task.table_files import rows_of
from task.text import has_half_character
from task.validation import FaultKind, violation


class Prediction(NamedTuple):
    """A row of a prediction file; `fault` is why the answer is invalid, None for a valid one."""

    row: Example
    fault: FaultKind | None


def prediction_row(row: Example, fault: FaultKind | None) -> dict[str, Any]:
    """A row as it is written: an invalid answer is marked, so that it cannot be taken for a query without labels."""
    return row.to_json() if fault is None else {**row.to_json(), "status": "invalid", "fault": fault}


def read_predictions(source: Path, task: Task) -> list[Prediction]:
    """Rows `{"query", "labels": [{"role", "text", "start"?, "end"?}]}`, each with its fault.

    An invalid answer is replaced by an empty one: one that is marked with `status: invalid`, whose `labels` is not a
    list of labels, or that breaks a rule of the task. There is one exception: labels whose only fault is that the query
    does not contain their text are kept without a span, because such an answer, marked invalid like the others, can
    still be compared by value, and counts as hallucinated.

    Raises:
        InputError: A row without a query, or two rows for one.
    """
    out: list[Prediction] = []
    seen: dict[str, int] = {}
    for line, row in rows_of(source):
        query = row.get("query")
        if not isinstance(query, str) or has_half_character(query):
            raise InputError("no text", file=source, line=line, field="query", found=query, expected="the query")
        if query in seen:
            raise InputError(
                "a second prediction for a query", file=source, line=line, field="query", found=query,
                expected=f"one, which is in line {seen[query]}", fix="Keep one of them",
            )
        seen[query] = line
        out.append(_prediction(query, row, task))
    return out


def _prediction(query: str, row: Mapping[str, Any], task: Task) -> Prediction:
    if row.get("status") == "invalid":
        fault = row.get("fault")
        return Prediction(Example(query), fault if fault in get_args(FaultKind) else "rule")
    raw = row.get("labels")
    read = [_label(x) for x in raw] if isinstance(raw, list) else [None]
    known = [x for x in read if x is not None]
    if len(known) < len(read):
        return Prediction(Example(query), "unreadable")
    labels = ordered(_located(query, known, task))
    found = violation(task, query, labels)
    if found is None:
        return Prediction(Example(query, labels), None)
    open_roles = {r.name for r in task.open_roles}
    in_query = [x for x in labels if x.start is not None or x.role not in open_roles]
    kept = labels if len(in_query) < len(labels) and violation(task, query, in_query) is None else ()
    return Prediction(Example(query, kept), found.kind)


def _label(raw: object) -> Label | None:
    """None if it is not a label."""
    if not isinstance(raw, Mapping):
        return None
    role, text, start, end, sure = (raw.get(k) for k in ("role", "text", "start", "end", "confidence"))
    if not isinstance(role, str) or not isinstance(text, str) or not text.strip() or has_half_character(text):
        return None
    if start is None and end is None:
        probability = float(sure) if isinstance(sure, int | float) and 0.0 <= sure <= 1.0 else None
        return Label(role, text, confidence=probability)  # ranks rewrites
    return Label(role, text, start, end) if type(start) is type(end) is int else None


def _located(query: str, labels: list[Label], task: Task) -> list[Label]:
    """Spans for labels of open roles without offsets, as for gold; none for labels of closed and text roles.

    A text that does not occur (often enough) in the query gets no span.
    """
    spanless = {r.name for r in (*task.closed_roles, *task.text_roles)}
    out, lost = [Label(x.role, x.text, confidence=x.confidence) for x in labels if x.role in spanless], []
    found: list[Label] = []
    for label in (x for x in labels if x.role not in spanless):
        try:
            found = list(locate(query, [*found, label]))
        except ValueError:
            lost.append(label)
    return [*out, *found, *lost]

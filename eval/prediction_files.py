"""Prediction files. No row is dropped: an invalid prediction becomes an empty answer and is counted as invalid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from task.errors import InputError
from task.labels import Example, Label, locate, ordered, span_problem
from task.spec import Task
from task.table_files import rows_of
from task.text import has_half_character


def read_predictions(source: Path, task: Task) -> list[tuple[Example, bool]]:
    """Rows `{"query", "labels": [{"role", "text", "start"?, "end"?}]}`, each with whether it is invalid.

    An answer is invalid, and replaced by an empty one, if `labels` is not a list of labels, the task lacks a role or a
    closed value, or the offsets are not those of the text (`task.labels.span_problem`). A value of an open role that
    does not occur in the query is kept without a span: it counts as wrong and as hallucinated.

    Raises:
        InputError: A row without a query, or two rows for one.
    """
    out: list[tuple[Example, bool]] = []
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
        labels = row.get("labels")
        read = [_label(query, x, task) for x in labels] if isinstance(labels, list) else [None]
        known = [x for x in read if x is not None]
        invalid = len(known) < len(read)
        out.append((Example(query, () if invalid else ordered(_located(query, known))), invalid))
    return out


def _label(query: str, raw: object, task: Task) -> Label | None:
    """None if it is not a label of the task."""
    if not isinstance(raw, Mapping):
        return None
    role, text, start, end = (raw.get(k) for k in ("role", "text", "start", "end"))
    found = next((r for r in task.roles if r.name == role), None)
    if found is None or not isinstance(text, str) or not text.strip() or has_half_character(text):
        return None
    if found.kind == "closed":
        return Label(found.name, text) if text in found.values else None
    if start is None and end is None:
        return Label(found.name, text)
    if span_problem(query, text, start=start, end=end) is not None:
        return None
    return Label(found.name, text, start, end)


def _located(query: str, labels: list[Label]) -> list[Label]:
    """Spans for labels without offsets, as for gold.

    A text that does not occur (often enough) in the query gets no span.
    """
    out: list[Label] = []
    for label in labels:
        try:
            out = list(locate(query, [*out, label])) if label.text in query else [*out, label]
        except ValueError:
            out.append(label)
    return out

"""The `json` answer form: a compact JSON list of labels.

`nth` is written only where the text occurs earlier in the query without being labelled, so that a repeated word
comes back at its own place.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from task.labels import Example, Label, Labelling, nth_occurrence, ordered

if TYPE_CHECKING:
    from task.spec import Task


def render(example: Example) -> str:
    """The answer text of a labelling."""
    rows: list[dict[str, Any]] = []
    taken: Counter[tuple[str, str]] = Counter()
    for label in ordered(example.labels):
        row: dict[str, Any] = {"role": label.role, "text": label.text}
        if label.start is not None:
            nth = taken[label.role, label.text]
            while 0 <= (at := nth_occurrence(example.query, label.text, nth)) < label.start:
                nth += 1
            if at != label.start:
                row["start"] = label.start
            elif nth != taken[label.role, label.text]:
                row["nth"] = nth
            taken[label.role, label.text] = nth + 1
        rows.append(row)
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def parse(query: str, text: str, task: Task) -> Labelling | None:
    """Labels of an answer text; labels that the task does not allow are dropped, a text that is no list gives None."""
    try:
        rows = json.loads(text[text.index("[") : text.rindex("]") + 1])
    except ValueError:
        return None
    closed = {r.name for r in task.closed_roles}
    taken: Counter[tuple[str, str]] = Counter()
    out: list[Label] = []
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("role"), str) or not isinstance(row.get("text"), str):
            continue
        role, value = row["role"], row["text"]
        if task.label_problem(query, role, value):
            continue
        if role in closed:
            label = Label(role, value)
            if all(x.key != label.key for x in out):
                out.append(label)
            continue
        nth = row["nth"] if isinstance(row.get("nth"), int) else taken[role, value]
        start = row["start"] if isinstance(row.get("start"), int) else nth_occurrence(query, value, max(nth, 0))
        if start < 0 or query[start : start + len(value)] != value:
            continue
        taken[role, value] = nth + 1
        out.append(Label(role, value, start, start + len(value)))
    return ordered(out)


def schema(task: Task) -> dict[str, Any]:
    """The JSON schema of an answer, for engines and teachers that constrain their output."""
    labels = []
    for role in task.roles:
        text: dict[str, Any] = {"type": "string", "enum": list(role.values)} if role.values else {"type": "string"}
        labels.append({
            "type": "object",
            "properties": {"role": {"const": role.name}, "text": text},
            "required": ["role", "text"],
            "additionalProperties": False,
        })
    return {"type": "array", "items": {"anyOf": labels}}

"""Whether a labelling is one that the task allows: the last check before an answer is returned to a client."""

from __future__ import annotations

from collections.abc import Sequence

from task.labels import Label
from task.spec import Task


def violation(task: Task, query: str, labels: Sequence[Label]) -> str | None:
    """The first rule of the task that the labels of a query break, as a clause; None if they break none."""
    seen: set[str] = set()
    for label in labels:
        problem = task.label_problem(query, label.role, label.text)
        if problem is not None:
            return problem
        role = task.role(label.role)
        if role.kind == "closed":
            if label.start is not None or label.end is not None:
                return f"a span for the closed role {role.name!r}"
        elif label.start is None or label.end is None or not 0 <= label.start < label.end <= len(query):
            return f"{role.name!r} has no span in the query"
        elif query[label.start : label.end] != label.text:
            return f"{role.name!r} is {label.text!r}, its span {query[label.start : label.end]!r}"
        if not role.multiple and role.name in seen:
            return f"two values of {role.name!r}, which takes one"
        if label.confidence is not None and not 0.0 <= label.confidence <= 1.0:
            return f"a confidence of {label.confidence:g}"
        seen.add(role.name)
    return None

"""The response format that makes an OpenAI-compatible endpoint answer with labels of a task."""

from __future__ import annotations

from typing import Any

from task.forms import json_text
from task.spec import Task


def labels_response_format(task: Task) -> dict[str, Any]:
    """The `response_format` of a chat request: an object with `labels`, as JSON schema in strict mode."""
    return {"type": "json_schema", "json_schema": {"name": "labels", "strict": True, "schema": {
        "type": "object", "properties": {"labels": json_text.schema(task)}, "required": ["labels"],
        "additionalProperties": False,
    }}}

"""The `response_format` of requests for labels: the JSON schema that constrains a chat completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from task.forms import json_text
from task.spec import Task


def labels_response_format(task: Task) -> dict[str, Any]:
    """The format of an answer `{"labels": [...]}`.

    The order of the keys is part of the prompt that repairs an unreadable answer, and so of that request's key.
    """
    return response_format("labels", {
        "type": "object", "properties": {"labels": json_text.schema(task)}, "required": ["labels"],
        "additionalProperties": False,
    })


def response_format(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """A `response_format` of the chat completions API for a JSON schema."""
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}

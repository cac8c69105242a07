"""The `response_format` of requests: the JSON schema that constrains a chat completion, and its part in stored keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from task.forms import json_text
from task.spec import Task


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """The format of an answer.

    Attributes:
        sent: The field `response_format` as it is sent.
        keyed: The same in the spelling that the keys of stored replies are made of. It allows the same answers.
    """

    sent: Mapping[str, Any]
    keyed: Mapping[str, Any]


def labels_response_format(task: Task) -> ResponseFormat:
    """The format of an answer `{"labels": [...]}`.

    A role was first written `{"const": NAME}`, which strict servers refuse. Keys keep that spelling: the two schemas
    allow the same answers, so what was paid for under one is not asked for again under the other.
    """
    labels = json_text.schema(task)
    first = [
        {**branch, "properties": {**branch["properties"], "role": {"const": role.name}}}
        for role, branch in zip(task.roles, labels["items"]["anyOf"], strict=True)
    ]
    keyed = {**labels, "items": {"anyOf": first}}
    return ResponseFormat(_labels(labels), _labels(keyed))


def verdicts_response_format() -> ResponseFormat:
    """The format of an answer `{"right": [...]}`."""
    made = _response_format("right", {
        "type": "object", "properties": {"right": {"type": "array", "items": {"type": "boolean"}}},
        "required": ["right"], "additionalProperties": False,
    })
    return ResponseFormat(made, made)


def _labels(schema: Mapping[str, Any]) -> dict[str, Any]:
    return _response_format("labels", {
        "type": "object", "properties": {"labels": schema}, "required": ["labels"], "additionalProperties": False,
    })


def _response_format(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """A `response_format` of the chat completions API for a JSON schema."""
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}

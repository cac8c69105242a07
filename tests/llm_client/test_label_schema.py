"""The response format of a request for labels, byte for byte: it is part of the key of every stored reply."""

from __future__ import annotations

import json

from llm_client.label_schema import labels_response_format
from tests.conftest import make_task


def test_the_format_is_what_stored_replies_were_asked_with() -> None:
    label = {
        "type": "object",
        "properties": {"role": {"const": "brand"}, "text": {"type": "string"}},
        "required": ["role", "text"],
        "additionalProperties": False,
    }
    expected = {"type": "json_schema", "json_schema": {"name": "labels", "schema": {
        "type": "object",
        "properties": {"labels": {"type": "array", "items": {"anyOf": [label]}}},
        "required": ["labels"],
        "additionalProperties": False,
    }, "strict": True}}
    task = make_task(roles=[{"name": "brand", "multiple": False}])
    assert json.dumps(labels_response_format(task)) == json.dumps(expected)  # in this order of keys

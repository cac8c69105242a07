"""The response format is part of ledger keys and of what a paid endpoint is sent: byte for byte."""

from __future__ import annotations

import json

from llm_client.label_schema import labels_response_format
from task.forms import json_text
from tests.conftest import make_task


def test_the_format_keeps_its_bytes() -> None:
    task = make_task()
    labels = json.dumps(json_text.schema(task))
    assert json.dumps(labels_response_format(task)) == (
        '{"type": "json_schema", "json_schema": {"name": "labels", "strict": true, "schema": {"type": "object", '
        f'"properties": {{"labels": {labels}}}, "required": ["labels"], "additionalProperties": false}}}}}}'
    )

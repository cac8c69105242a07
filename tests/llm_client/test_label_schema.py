"""The response format of a request for labels: what is sent is strict, and what the key is made of stays."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from llm_client.label_schema import labels_response_format, verdicts_response_format
from tests.conftest import make_task
from tests.llm_client import strict_schema

NAMES = st.text(min_size=1, max_size=8).filter(lambda s: s.strip() == s and s.isprintable())
ROLES = st.lists(st.tuples(NAMES, st.lists(NAMES, unique=True, max_size=4)), min_size=1, max_size=5,
                 unique_by=lambda role: role[0])


def expected(role: dict[str, object]) -> dict[str, object]:
    label = {
        "type": "object",
        "properties": {"role": role, "text": {"type": "string"}},
        "required": ["role", "text"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "labels", "schema": {
        "type": "object",
        "properties": {"labels": {"type": "array", "items": {"anyOf": [label]}}},
        "required": ["labels"],
        "additionalProperties": False,
    }, "strict": True}}


def test_a_role_has_a_type_beside_its_value_and_the_key_keeps_the_first_spelling() -> None:
    found = labels_response_format(make_task(roles=[{"name": "brand", "multiple": False}]))
    assert json.dumps(found.sent) == json.dumps(expected({"type": "string", "enum": ["brand"]}))
    assert json.dumps(found.keyed) == json.dumps(expected({"const": "brand"}))


@given(roles=ROLES)
def test_the_format_of_every_task_is_what_strict_mode_takes(roles: list[tuple[str, list[str]]]) -> None:
    task = make_task(roles=[
        {"name": name, "kind": "closed", "values": values} if values else {"name": name} for name, values in roles
    ])
    assert strict_schema.refusal({"response_format": labels_response_format(task).sent}) is None
    assert strict_schema.refusal({"response_format": labels_response_format(task).keyed}) is not None
    assert strict_schema.refusal({"response_format": verdicts_response_format().sent}) is None

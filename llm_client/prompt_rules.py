"""Digests of the prompts and answer schemas that are part of the code, so that a change of one is noticed.

The text of the task's own template is hashed with the task's files. A digest is of a made-up task and depends on no
setting, so it changes only with the code.
"""

from __future__ import annotations

import functools

from llm_client import prompt
from llm_client.label_schema import labels_response_format
from task.files import sha256_json
from task.settings import OpenAI
from task.spec import Task


def prompt_rules(settings: OpenAI) -> dict[str, str]:
    """Name → twelve hex digits of every text of ours that the requests of a labelling job contain."""
    out = {}
    if settings.structured_output:
        out["answer schema"] = _schema()
    if settings.repair:
        out["repair prompt"] = _digest(prompt.REPAIR)
    if settings.verify:
        out["verifier prompt"] = _digest([prompt.VERIFY, prompt.VERIFY_QUERY])
    return out


def review_rules() -> dict[str, str]:
    """The same of the requests in which the teacher looks at its labels again."""
    return {"review prompt": _digest(prompt.REVIEW)}


@functools.cache
def _schema() -> str:
    probe = Task.model_validate({
        "name": "probe", "data": {"dir": ".", "labels": "labels.jsonl"}, "teacher": {"backend": "labels"},
        "roles": [
            {"name": "open"}, {"name": "single", "multiple": False},
            {"name": "closed", "kind": "closed", "values": ["a", "b"]},
            {"name": "one", "kind": "closed", "multiple": False, "values": ["a", "b"]},
        ],
    })
    return _digest(labels_response_format(probe).keyed)


def _digest(value: object) -> str:
    return sha256_json(value)[:12]

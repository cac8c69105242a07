"""The error of an attempt, short enough for a message or a table."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from task.text import repaired

_LONGEST: Final = 200
_MESSAGE: Final = re.compile(r'"(?:message|msg|error|detail)"\s*:\s*"((?:[^"\\]|\\.)*)')


def short_error(error: str) -> str:
    """An attempt's error, short: the provider's message without the JSON or HTML around it."""
    head, _, body = error.partition(": ")
    text = _message_in(body)
    if text is None:
        text = re.sub(r"<[^>]*>", " ", body)
    text = " ".join(repaired(text).split())
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return f"{head[:_LONGEST]}: {text}" if text else head.rstrip(": ")[:_LONGEST]


def _message_in(body: str) -> str | None:
    """The message in a JSON body, also in one that was cut; None if there is none."""
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        found = _MESSAGE.search(body)
        return found[1] if found else None
    for _ in range(4):
        if isinstance(value, list) and value:
            value = value[0]
        elif isinstance(value, dict):
            value = next((value[k] for k in ("error", "message", "detail", "msg") if value.get(k)), None)
        else:
            break
    return value if isinstance(value, str) else None

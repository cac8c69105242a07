"""The body of a request, from the fields of Limbeck and those of `extra_body`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LIMITS = ("max_tokens", "max_completion_tokens")


def sent_body(own: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are sent.

    A field of `extra` replaces one of `own`; one that is null is left out, because servers that do not know a field
    refuse its null as well; `max_completion_tokens` replaces `max_tokens`, because servers that take the one refuse
    the other.
    """
    out = {**own, **extra}
    if extra.get("max_completion_tokens") is not None and "max_tokens" not in extra:
        out.pop("max_tokens", None)
    return {name: value for name, value in out.items() if value is not None}


def token_limit(body: Mapping[str, Any]) -> int | None:
    """The most tokens that an answer to a body can have; None if it has no limit."""
    given = [int(body[name]) for name in _LIMITS if body.get(name) is not None]
    return max(given, default=None)

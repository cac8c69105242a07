"""Settings of an LLM endpoint that are checked when a task file is loaded: its address, and fields of its requests."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator

_COUNTS = ("max_tokens", "max_completion_tokens", "n")
_EXAMPLE = "such as https://api.openai.com/v1 or http://127.0.0.1:8000/v1"


def _base_url(value: str) -> str:
    """A URL that requests can be sent to; the key of a stored reply has it as it is written, so it is not changed."""
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 (raises for a port that is no number)
    except ValueError as error:
        raise ValueError(f"not a URL ({error}); expected one {_EXAMPLE}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"a URL begins with http:// or https:// and a host; expected one {_EXAMPLE}")
    if any(c.isspace() for c in value):
        raise ValueError(f"a URL has no blanks and no line breaks; expected one {_EXAMPLE}")
    if parts.query or parts.fragment:
        raise ValueError(f"`?` and `#` cannot stand in a base URL, paths are appended to it; expected one {_EXAMPLE}")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError(f"the path /chat/completions is appended to a base URL; leave it out: {_EXAMPLE}")
    return value


def _extra_body(value: dict[str, Any]) -> dict[str, Any]:
    """Fields that are added to requests; those that decide how a reply is read or paid for are checked."""
    for name in _COUNTS:
        given = value.get(name)
        if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
            raise ValueError(f"`{name}` is {given!r}; expected a whole number from 1, or null to leave it out")
    if value.get("stream"):
        raise ValueError("`stream` is set; replies are read as a whole: leave it out")
    return value


BaseUrl = Annotated[str, AfterValidator(_base_url)]
ExtraBody = Annotated[dict[str, Any], AfterValidator(_extra_body)]

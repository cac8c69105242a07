"""Asks a service for the labels of one query, and says in words what kept it from answering."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from engine.loopback import open_url
from task.errors import cause_of
from task.labels import Label, Labelling

KEY: Final = "LIMBECK_API_KEY"
"""The environment variable with the key of services that ask for one."""
_TIMEOUT_S: Final = 30.0
_MOST_BYTES: Final = 4 << 20
_HINTS: Final = {
    401: f"start the console with the environment variable {KEY}",
    503: "its engine may be starting, or have too much to do",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a service said to a query.

    Attributes:
        url: The service.
        ms: Milliseconds until its answer was here, the network included.
        problem: Why there is no answer; empty where there is one.
        labels: None where there is no answer.
        probability: That the labelling as a whole is right; None from a cache.
        fault: Why the answer cannot be used; None for one that can.
    """

    url: str
    ms: float
    problem: str = ""
    labels: Labelling | None = None
    status: str = ""
    source: str = ""
    probability: float | None = None
    fault: str | None = None
    task: str = ""
    bundle: str = ""


def ask(url: str, query: str, *, use_cache: bool, task: str | None = None) -> Asked:
    """Ask a service for the labels of a query; raises nothing.

    Args:
        task: Which task, where several are served.
    """
    body = {"query": query, "use_cache": use_cache, **({} if task is None else {"task": task})}
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{url.rstrip('/')}/v1/label", json.dumps(body).encode(), headers)
    began = time.perf_counter()

    def ms() -> float:
        return 1e3 * (time.perf_counter() - began)

    try:
        with open_url(request, timeout_s=_TIMEOUT_S) as response:
            text = response.read(_MOST_BYTES)
        return _read(url, ms(), query, json.loads(text))
    except urllib.error.HTTPError as error:
        return Asked(url=url, ms=ms(), problem=_refusal(error))
    except (OSError, http.client.HTTPException) as error:
        return Asked(url=url, ms=ms(), problem=f"It cannot be reached: {cause_of(error)}.")
    except (ValueError, LookupError, TypeError, AttributeError):
        return Asked(url=url, ms=ms(), problem="What it answers is no labelling. Is this the address of a service?")


def _read(url: str, ms: float, query: str, found: Mapping[str, Any]) -> Asked:
    labels = tuple(_label(query, x) for x in found["labels"])
    return Asked(
        url=url, ms=ms, labels=labels, status=str(found["status"]), source=str(found["source"]),
        probability=_number(found["probability"]), fault=None if found.get("fault") is None else str(found["fault"]),
        task=str(found["task"]), bundle=str(found["bundle"]),
    )


def _label(query: str, row: Mapping[str, Any]) -> Label:
    """A label that can be drawn. Raises `ValueError` for one that is nowhere in the query."""
    label = Label(
        str(row["role"]), str(row["text"]), row.get("start"), row.get("end"), _number(row.get("confidence"))
    )
    if (label.start is None) != (label.end is None):
        raise ValueError(label)
    if label.start is not None and query[label.start : label.end] != label.text:
        raise ValueError(label)
    return label


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _refusal(error: urllib.error.HTTPError) -> str:
    """A status in words, with what the service says itself, and when it may be asked again."""
    try:
        said = str(json.loads(error.read(_MOST_BYTES))["error"]["message"])
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException):
        said = "it does not say why"
    what = {
        401: "It asks for an API key", 404: "It does not know what is asked for", 422: "It does not take this query",
        429: "It takes no more requests of this caller now", 503: "It cannot answer now",
    }.get(error.code, f"It answers with an error, {error.code}")
    again = error.headers.get("Retry-After")
    parts = [f"{what}: {said}", *([hint] if (hint := _HINTS.get(error.code)) else [])]
    return "; ".join(parts) + (f". It may be asked again in {again} s." if again else ".")

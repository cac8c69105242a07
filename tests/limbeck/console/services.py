"""Services for the console's tests: local servers that answer as a service does, and with every error that it has."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from tests.serving.local_http import Handler, listening


def answer(query: str, **more: Any) -> dict[str, Any]:
    """An answer to a query that begins with a brand of one word."""
    brand = query.split()[0]
    return {
        "query": query, "labels": [
            {"role": "brand", "text": brand, "start": 0, "end": len(brand), "confidence": 0.9},
            {"role": "aisle", "text": "dairy", "start": None, "end": None, "confidence": 0.8},
        ], "status": "ok", "source": "student", "probability": 0.87, "fault": None, "task": "shop", "bundle": "abc123",
    } | more


@contextlib.contextmanager
def service(status: int = 200, body: Any = None, *, asked: list[Any] | None = None, **more: Any) -> Iterator[str]:
    """The URL of a service.

    Args:
        status: What it answers with.
        body: In place of an answer: JSON, or bytes as they are.
        asked: Gets the body and the authorization of every request.
        more: Fields of its answers.
    """

    class Service(Handler):
        def post(self) -> None:
            given = json.loads(self.body())
            if asked is not None:
                asked.append((self.path, given, self.headers.get("Authorization")))
            found = answer(given["query"], **more) if body is None else body
            text = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            if status in (429, 503):
                self.send_header("Retry-After", "7")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    with listening(Service) as url:
        yield url

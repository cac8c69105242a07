"""One HTTP request and its response, on plain ASGI, with the limits on headers, body and time in one place."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Mapping
from typing import Any

MAX_HEADERS = 16_384
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")


class HttpError(Exception):
    """A response other than 200, in OpenAI's format."""

    def __init__(
        self, status: int, *, kind: str, message: str, param: str | None = None, retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.kind, self.param = status, kind, param
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, round(retry_after)))
        super().__init__(message)

    @property
    def problem(self) -> dict[str, str | None]:
        """What is wrong, as the body says it."""
        return {"message": str(self), "type": self.kind, "param": self.param, "code": None}

    def body(self) -> bytes:
        """The body as JSON."""
        # The message may quote lone surrogates from the request, which cannot be encoded unless they are escaped.
        return json.dumps({"error": self.problem}, ensure_ascii=True).encode()


def too_large(limit: int, what: str = "body") -> HttpError:
    """The error for a body of more than `limit` bytes; the connection ends, for the rest of the body may follow."""
    return HttpError(
        413, kind="invalid_request_error", message=f"the {what} is larger than {limit} bytes",
        headers={"Connection": "close"},
    )


class ClientGoneError(Exception):
    """The client closed the connection before it had sent its body."""


class Exchange:
    """A request and its response.

    Attributes:
        id: The client's `X-Request-Id` where it is valid, else a random one.
        status: Of the response; 0 before it has begun.
        notes: Fields for the access log and the trace.
        common: Headers of the response whatever it is.
    """

    def __init__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.started = time.perf_counter()
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        self.id = given if _REQUEST_ID.fullmatch(given) else os.urandom(8).hex().encode()
        self.status = 0
        self.path: str = scope["path"]
        self.notes: dict[str, Any] = {}
        self.common: list[tuple[bytes, bytes]] = []
        self._held: list[bytes] | None = None
        self._held_head: list[tuple[bytes, bytes]] = []

    @property
    def key(self) -> str | None:
        """The API key of the request, from `Authorization: Bearer` or `X-API-Key`."""
        bearer = self.headers.get(b"authorization", b"")
        if bearer[:7].lower() == b"bearer ":
            return bearer[7:].strip().decode("latin-1")
        found = self.headers.get(b"x-api-key")
        return None if found is None else found.decode("latin-1")

    def deadline(self, max_s: float) -> float:
        """The deadline, in the loop's time: what `X-Request-Timeout-Ms` asks for, at most `max_s`.

        Raises:
            HttpError: The header is not a positive whole number.
        """
        seconds = max_s
        asked = self.headers.get(b"x-request-timeout-ms")
        if asked is not None:
            if not asked.isdigit() or len(asked) > 9 or int(asked) == 0:
                raise HttpError(
                    400, kind="invalid_request_error", param="X-Request-Timeout-Ms",
                    message="X-Request-Timeout-Ms takes a positive whole number of milliseconds",
                )
            seconds = min(seconds, int(asked) / 1000)
        return asyncio.get_running_loop().time() + seconds

    async def body(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            HttpError: It is larger than `limit` bytes, or its headers are too large.
            ClientGoneError: The connection was closed before.
        """
        if sum(len(k) + len(v) for k, v in self.scope["headers"]) > MAX_HEADERS:
            raise HttpError(
                431, kind="invalid_request_error", message=f"the headers are larger than {MAX_HEADERS} bytes"
            )
        length = self.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:19]) > limit:
            raise too_large(limit)
        message = await self._receive()
        parts = []
        size = 0
        while message["type"] == "http.request":
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise too_large(limit)
            parts.append(part)
            if not message.get("more_body"):
                return parts[0] if len(parts) == 1 else b"".join(parts)
            message = await self._receive()
        raise ClientGoneError

    async def start(
        self, status: int, kind: bytes, *, headers: Mapping[str, str] = {}, length: int | None = None
    ) -> None:
        """Send status and headers; `kind` is the content type.

        A client that speaks HTTP/1.0 cannot read chunks: a body without a length is held back until it is complete.
        """
        self.status = status
        lines = [(b"content-type", kind), (b"x-request-id", self.id), *self.common]
        if length is not None:
            lines.append((b"content-length", str(length).encode()))
        lines += [(k.encode(), v.encode()) for k, v in headers.items()]
        if length is None and self.scope.get("http_version") == "1.0":
            self._held, self._held_head = [], lines
            return
        await self._send({"type": "http.response.start", "status": status, "headers": lines})

    async def write(self, part: bytes, *, more: bool = True) -> None:
        """Send a part of the body."""
        if self._held is not None:
            self._held.append(part)
            if more:
                return
            part, self._held = b"".join(self._held), None
            lines = [*self._held_head, (b"content-length", str(len(part)).encode())]
            await self._send({"type": "http.response.start", "status": self.status, "headers": lines})
        await self._send({"type": "http.response.body", "body": part, "more_body": more})

    async def answer(
        self, body: bytes, status: int = 200, *, kind: bytes = b"application/json", headers: Mapping[str, str] = {}
    ) -> None:
        """Send the whole response."""
        await self.start(status, kind, headers=headers, length=len(body))
        await self._send({"type": "http.response.body", "body": b"" if self.scope["method"] == "HEAD" else body})


async def lifespan(receive: Any, send: Any) -> None:
    """Answer the server's lifespan events."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return

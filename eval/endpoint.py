"""The server under test: a Limbeck gateway, or any server with OpenAI's chat completions."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from task.errors import InputError

Api = Literal["label", "chat"]
PATHS: Final[dict[Api, str]] = {"label": "/v1/label", "chat": "/v1/chat/completions"}
# `source` of an answer from a cache, as the gateway writes it.
_CACHED: Final = (b'"source":"cache"', b'"source":"kept"', b'"source": "cache"', b'"source": "kept"')

_INVALID: Final = (b'"status":"invalid"', b'"status": "invalid"')


@dataclass(frozen=True, slots=True)
class Target:
    """A server and the form of its requests.

    Attributes:
        url: Its base address, which may end with a path such as `/v1`; the API's path is appended.
        api: `label` is Limbeck's; `chat` is OpenAI's, streamed, so that TTFT can be measured.
        model: Model name for `chat`.
        instruction: System message for `chat`.
        extra: Further fields of the body.
        key: API key, sent as a bearer token.
        path: Another path to post to; the query is then sent as the JSON body itself.
    """

    url: str
    api: Api = "label"
    model: str = "student"
    instruction: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    key: str | None = None
    path: str | None = None

    @property
    def address(self) -> tuple[str, int, bool]:
        """Host, port, and whether it is TLS.

        Raises:
            InputError: Not an HTTP address.
        """
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError("not the address of a server", field="URL", found=self.url, expected="http://HOST:PORT")
        return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80), parts.scheme == "https"

    def request(self, query: str, *, use_cache: bool) -> bytes:
        """The whole HTTP request."""
        parts = urlsplit(self.url)
        path = parts.path.rstrip("/")
        if self.path is not None:
            path, body = path + self.path, query.encode()
        else:
            path += PATHS[self.api].removeprefix("/v1") if path.endswith("/v1") else PATHS[self.api]
            body = json.dumps(self._body(query, use_cache=use_cache), ensure_ascii=False).encode()
        bearer = f"authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n{bearer}"
            f"content-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _body(self, query: str, *, use_cache: bool) -> dict[str, Any]:
        if self.api == "label":
            return {"query": query, **({} if use_cache else {"use_cache": False}), **self.extra}
        system = [{"role": "system", "content": self.instruction}] if self.instruction else []
        return {
            "model": self.model, "stream": True, "messages": [*system, {"role": "user", "content": query}], **self.extra
        }


def cached(body: bytes) -> bool:
    """Whether an answer of the gateway came from a cache."""
    return any(mark in body for mark in _CACHED)


def marked_invalid(body: bytes) -> bool:
    """Whether the gateway says that the student's answer cannot be used."""
    return any(mark in body for mark in _INVALID)


def streamed_tokens(chunk: bytes) -> int:
    """Number of server-sent events with text; each counts as one token, as vLLM and OpenAI send them."""
    return sum(
        b'"content":' in line and b'"content":""' not in line and b'"content": ""' not in line
        and b'"content":null' not in line
        for line in chunk.split(b"\n") if line.startswith(b"data:")
    )

"""A request to an LLM, and the key under which its reply is stored.

The key contains everything that could change the reply. It does not contain the API key, time-outs, deadlines,
concurrency, rate limits, retries, prices and the budget. Where a body is sent in another spelling than before, because
a server refuses the earlier one, its key is still made of the earlier one: no paid reply is asked for again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from task.files import canonical_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call.

    Attributes:
        query: The query that is labelled.
        purpose: `label`, `samples`, `bare`, `verify`, `review` or `repair`.
        content: The body, as canonical JSON.
        key: SHA-256 of address and keyed body.
        evidence: The retrieved context, stored with the reply.
        most_tokens: Upper bounds for the tokens of prompt and answer; a budget reserves their cost.
    """

    query: str
    purpose: str
    content: bytes
    key: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    most_tokens: tuple[int, int] = (0, 0)

    @classmethod
    def make(
        cls, *, query: str, purpose: str, base_url: str, body: Mapping[str, Any], keyed: Mapping[str, Any],
        max_tokens: int, evidence: Mapping[str, Any] | None = None,
    ) -> Request:
        """Encode and hash a body.

        Args:
            keyed: The body in the spelling that keys are made of.
            max_tokens: The most tokens of an answer.
        """
        content = canonical_json(body).encode()
        key = hashlib.sha256(base_url.rstrip("/").encode() + b"\n" + canonical_json(keyed).encode()).hexdigest()
        # A token of a byte-level vocabulary has at least one byte; chat templates add a few tokens around each message.
        most = (len(content) + 16 * len(body["messages"]), max_tokens * int(body.get("n", 1)))
        return cls(
            query=query, purpose=purpose, content=content, key=key, evidence=evidence or {}, most_tokens=most
        )

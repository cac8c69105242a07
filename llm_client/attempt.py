"""The record of every call, and the reply to a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from task.text import has_half_character, repaired, repaired_json

Outcome = Literal["ok", "invalid", "truncated", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One call, successful or not.

    Attributes:
        request: SHA-256 of everything that could change the reply.
        purpose: `label`, `samples`, `bare` (without context), `verify`, `review` or `repair`.
        evidence: What retrieval gave for the query; the ledger stores each distinct content once.
        outcome: `ok`; `invalid`, an answer that cannot be parsed; `truncated`, cut by the token limit or withheld by
            the provider; `error`.
        reply: The raw answer, kept even when it cannot be used: reading it again costs nothing.
        details: What else came with the reply, such as token log-probabilities and further samples.
        cost: In the currency of the price, USD in the price list.
    """

    request: str
    query: str
    backend: str
    model: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    reply: str | None = None
    error: str | None = None
    outcome: Outcome = "ok"
    purpose: str = "label"
    details: Mapping[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        """Repair half characters in the reply and its tokens: it is sent on to be repaired or reviewed, and stored."""
        if self.reply is not None and has_half_character(self.reply):
            object.__setattr__(self, "reply", repaired(self.reply))
            object.__setattr__(self, "details", repaired_json(self.details))


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to a request.

    Attributes:
        cut: The token limit cut it, or the provider withheld it (a refusal, a content filter). It cannot be used, and
            sending the same request again would pay for the same.
    """

    content: str
    details: Mapping[str, Any] = field(default_factory=dict)
    cut: bool = False

    @property
    def why_cut(self) -> str:
        """Why a reply that is cut cannot be used."""
        return str(self.details.get("withheld") or "cut by max_tokens")


class AttemptRecorder(Protocol):
    """Stores attempts."""

    async def record(self, attempts: Sequence[Attempt]) -> None:
        """Store attempts; on return they survive a kill of the process."""

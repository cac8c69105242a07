"""What a ledger holds: attempts, replies, batches, and where each query stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from task.labels import Label, Labelling

Status = Literal["accepted", "partial", "uncertain", "failed", "skipped"]
STATUSES: tuple[Status, ...] = ("accepted", "partial", "uncertain", "failed", "skipped")
Outcome = Literal["ok", "invalid", "truncated", "error"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call, successful or not.

    Attributes:
        request: SHA-256 of everything that could change the reply.
        purpose: `label`, `samples`, `bare` (without context), `verify`, `review` or `repair`.
        evidence: What retrieval gave for it; stored once per content.
        outcome: `ok`; `invalid`, an answer that cannot be used; `truncated`, cut by the token limit; `error`.
        reply: The raw answer, kept even when it is of no use: reading it again is free.
        details: What else came with the reply, such as token log-probabilities and further samples.
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


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that the ledger holds.

    Attributes:
        cut: The token limit cut it: of no use, and the same request would only be paid for and cut again.
    """

    content: str
    details: Mapping[str, Any] = field(default_factory=dict)
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of a provider.

    Attributes:
        token: Ours, in the batch's metadata; known before the batch is made.
        id: The provider's; None until it is known.
        state: `uploading`, `made`, `collected`, `failed` or `given up`.
        requests: (key, query, purpose) of each.
    """

    token: str
    id: str | None
    state: str
    requests: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """Where one query stands.

    Attributes:
        judged: Fingerprint of the rules that its labels were judged by.
        signals: Per label, in order, what its confidence is computed from; and last the labelling's own.
        confidence: Probability that the labelling as a whole is right.
    """

    query: str
    count: int
    request: str
    status: Status
    labels: Labelling
    confidence: float
    reason: str = ""
    verdicts: Sequence[Mapping[str, Any]] = ()
    signals: Sequence[Mapping[str, float]] = ()
    judged: str = ""

    def to_json(self) -> dict[str, Any]:
        """One line of `labels.jsonl`."""
        return {
            "query": self.query, "count": self.count, "status": self.status, "reason": self.reason,
            "confidence": round(self.confidence, 6), "labels": [x.to_json() for x in self.labels],
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> LedgerRow:
        """Read a line of `labels.jsonl`."""
        labels = tuple(Label.from_json(x) for x in row["labels"])
        return cls(row["query"], row["count"], "", row["status"], labels, row["confidence"], row["reason"])


class Book(Protocol):
    """What labelling needs of a ledger: the file itself, or somebody elsewhere who owns it (`teacher.cluster`)."""

    def replies(self, requests: Iterable[str]) -> dict[str, Reply]:
        """See `Ledger.replies`."""

    def asked(self, requests: Iterable[str]) -> set[str]:
        """See `Ledger.asked`."""

    def rows(self, queries: Iterable[str]) -> dict[str, LedgerRow]:
        """See `Ledger.rows`."""

    def record(self, attempts: Sequence[Attempt], rows: Sequence[LedgerRow] = ()) -> None:
        """See `Ledger.record`."""

    def settle(self, rows: Iterable[LedgerRow]) -> None:
        """See `Ledger.settle`."""

    def spent(self) -> dict[str, float]:
        """See `Ledger.spent`."""

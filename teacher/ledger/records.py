"""What a ledger holds beside attempts (`llm_client.attempt`): batches, and the current row of every query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, Protocol

from llm_client.attempt import Attempt, Reply
from task.labels import Label, Labelling

Status = Literal["accepted", "partial", "uncertain", "failed", "skipped"]
STATUSES: tuple[Status, ...] = ("accepted", "partial", "uncertain", "failed", "skipped")
UNANSWERED: frozenset[Status] = frozenset({"failed", "skipped"})  # rows without an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch at the provider.

    Attributes:
        token: Made by us before the batch, and put into its metadata.
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
    """The current labels and status of one query.

    Attributes:
        rules: Fingerprint of the guardrails that its labels passed.
        confidence: Probability that the labelling as a whole is right.
        label_signals: Per label, in order, what its confidence is computed from.
        row_signals: What the confidence of the labelling as a whole is computed from, beside the labels' signals.
    """

    query: str
    count: int
    request: str
    status: Status
    labels: Labelling
    confidence: float
    _: KW_ONLY
    reason: str = ""
    verdicts: Sequence[Mapping[str, Any]] = ()
    label_signals: Sequence[Mapping[str, float]] = ()
    row_signals: Mapping[str, float] = field(default_factory=dict)
    rules: str = ""

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
        return cls(row["query"], row["count"], "", row["status"], labels, row["confidence"], reason=row["reason"])


class LedgerAccess(Protocol):
    """What labelling needs of a ledger: the file itself, or the actor that owns it (`ray_workers`)."""

    def replies(self, requests: Iterable[str]) -> dict[str, Reply]:
        """See `Ledger.replies`."""

    def answered(self, requests: Iterable[str]) -> set[str]:
        """See `Ledger.answered`."""

    def rows(self, queries: Iterable[str]) -> dict[str, LedgerRow]:
        """See `Ledger.rows`."""

    def record(self, attempts: Sequence[Attempt], rows: Sequence[LedgerRow] = ()) -> None:
        """See `Ledger.record`."""

    def write_rows(self, rows: Iterable[LedgerRow]) -> None:
        """See `Ledger.write_rows`."""

    def spent(self) -> dict[str, float]:
        """See `Ledger.spent`."""

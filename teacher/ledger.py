"""The ledger: every attempt to label a query, and the status of every query.

One SQLite file beside the run folders, so that it outlives them: a reply that was paid for is found by the hash of
its request and never asked for again. Attempts are committed before their labels are used; a kill at any moment
loses at most replies that had not arrived.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from task.errors import InputError
from task.labels import Label, Labelling

Status = Literal["accepted", "partial", "failed", "skipped"]
SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY,
    request TEXT NOT NULL,
    query TEXT NOT NULL,
    backend TEXT NOT NULL,
    model TEXT NOT NULL,
    evidence TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('ok', 'error')),
    reply TEXT,
    error TEXT,
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    cost REAL NOT NULL DEFAULT 0,
    latency_s REAL NOT NULL DEFAULT 0,
    created REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS attempts_by_request ON attempts (request, outcome);
CREATE TABLE IF NOT EXISTS rows (
    query TEXT PRIMARY KEY,
    count INTEGER NOT NULL,
    request TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    labels TEXT NOT NULL,
    confidence REAL NOT NULL,
    verdicts TEXT NOT NULL,
    updated REAL NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call, successful or not. `request` is the SHA-256 of everything that could change the reply."""

    request: str
    query: str
    backend: str
    model: str
    evidence: Mapping[str, Any]
    reply: str | None = None
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """The status of one query."""

    query: str
    count: int
    request: str
    status: Status
    labels: Labelling
    confidence: float
    reason: str = ""
    verdicts: Sequence[Mapping[str, Any]] = ()

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


class Ledger:
    """Open (or create) a ledger; one process writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA_VERSION):
                raise InputError("a ledger of another version", file=path, found=version, expected=str(SCHEMA_VERSION))
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except (sqlite3.Error, OSError) as error:
            raise InputError(
                f"cannot open the ledger: {error}", file=path, fix="Is the disk full or read-only?"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._db.close()

    def replies(self, requests: Sequence[str]) -> dict[str, str]:
        """Those of the requests that have a reply."""
        out: dict[str, str] = {}
        for at in range(0, len(requests), 500):
            part = requests[at : at + 500]
            marks = ",".join("?" * len(part))
            sql = f"SELECT request, reply FROM attempts WHERE outcome = 'ok' AND request IN ({marks})"
            out.update(self._db.execute(sql, part).fetchall())
        return out

    def record(self, attempts: Iterable[Attempt]) -> None:
        """Write attempts, all or none; on return they are on disk."""
        now = time.time()
        rows = [
            (
                a.request, a.query, a.backend, a.model, json.dumps(a.evidence, ensure_ascii=False),
                "error" if a.reply is None else "ok", a.reply, a.error, a.prompt_tokens, a.completion_tokens,
                a.cost, a.latency_s, now,
            )
            for a in attempts
        ]
        columns = (
            "request, query, backend, model, evidence, outcome, reply, error, prompt_tokens, completion_tokens, "
            "cost, latency_s, created"
        )
        self._transaction(f"INSERT INTO attempts ({columns}) VALUES ({','.join('?' * 13)})", rows)

    def settle(self, rows: Iterable[LedgerRow]) -> None:
        """Write the status of queries, replacing what stood there."""
        now = time.time()
        values = [
            (
                r.query, r.count, r.request, r.status, r.reason,
                json.dumps([x.to_json() for x in r.labels], ensure_ascii=False), r.confidence,
                json.dumps(list(r.verdicts), ensure_ascii=False), now,
            )
            for r in rows
        ]
        self._transaction(f"INSERT OR REPLACE INTO rows VALUES ({','.join('?' * 9)})", values)

    def _transaction(self, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(sql, rows)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise InputError(
                f"cannot write the ledger: {error}", file=self.path, fix="Free some disk, then run the same command"
            ) from error

    def spent(self) -> dict[str, float]:
        """Sums over all attempts: calls, tokens and money."""
        row = self._db.execute(
            "SELECT COUNT(*), COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0), "
            "COALESCE(SUM(cost), 0) FROM attempts"
        ).fetchone()
        return dict(zip(("attempts", "prompt_tokens", "completion_tokens", "cost"), row, strict=True))

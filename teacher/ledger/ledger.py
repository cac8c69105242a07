"""The ledger: every call to label a query, and the current row of every query.

One SQLite file beside the stage folders, so that it outlives them: a paid reply is found by the hash of its request and
never asked for again. Attempts are committed before their labels are used; a kill loses at most the replies that had
not arrived.

`attempts` is append-only. `evidence` holds each distinct context once, by its hash. `rows` has the current row of each
query, which can be computed again from the other two at no cost. `batches` has the state of the provider's batches.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from filelock import FileLock, Timeout

from llm_client.attempt import Attempt, Reply
from task.errors import InputError
from task.files import sha256_text
from task.text import repaired
from teacher.ledger.columns import ATTEMPT_COLUMNS, attempt_values, json_text, row_of, row_values
from teacher.ledger.records import Batch, LedgerRow

SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY,
    request TEXT NOT NULL,
    query TEXT NOT NULL,
    purpose TEXT NOT NULL DEFAULT 'label',
    backend TEXT NOT NULL,
    model TEXT NOT NULL,
    evidence TEXT NOT NULL,
    outcome TEXT NOT NULL,
    reply TEXT,
    details TEXT NOT NULL DEFAULT '{}',
    error TEXT,
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    cost REAL NOT NULL DEFAULT 0,
    latency_s REAL NOT NULL DEFAULT 0,
    created REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS attempts_by_request ON attempts (request, outcome);
CREATE TABLE IF NOT EXISTS evidence (hash TEXT PRIMARY KEY, content TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    token TEXT PRIMARY KEY,
    id TEXT,
    state TEXT NOT NULL,
    requests TEXT NOT NULL,
    updated REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS rows (
    query TEXT PRIMARY KEY,
    count INTEGER NOT NULL,
    request TEXT NOT NULL,
    judged TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    labels TEXT NOT NULL,
    signals TEXT NOT NULL,
    confidence REAL NOT NULL,
    verdicts TEXT NOT NULL,
    updated REAL NOT NULL
);
"""
_UNREADABLE = 2  # answers to a verification, which is worth one signal: a third would probably be the same
# Whether a request is not sent again after an attempt at it.
ANSWERED = (
    "(attempts.outcome IN ('ok', 'truncated') OR attempts.purpose = 'verify' AND attempts.outcome = 'invalid' AND "
    "(SELECT COUNT(*) FROM attempts other WHERE other.request = attempts.request AND other.outcome = 'invalid') "
    f">= {_UNREADABLE})"
)
# A ledger of version 1 keeps every paid reply: its attempts get the new columns, its rows are computed again.
_FROM_1 = """
ALTER TABLE attempts RENAME TO attempts_1;
DROP INDEX attempts_by_request;
DROP TABLE rows;
""" + _SCHEMA + """
INSERT INTO attempts (id, request, query, backend, model, evidence, outcome, reply, error, prompt_tokens,
                      completion_tokens, cost, latency_s, created)
SELECT id, request, query, backend, model, '', outcome, reply, error, prompt_tokens, completion_tokens, cost,
       latency_s, created FROM attempts_1;
DROP TABLE attempts_1;
"""


class Ledger:
    """A ledger, created if it does not exist. One process writes it, from any of its threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._evidence: set[str] = set()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, 1, SCHEMA_VERSION):
                raise InputError("a ledger of another version", file=path, found=version, expected=str(SCHEMA_VERSION))
            script = _FROM_1 if version == 1 else _SCHEMA
            self._db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        except (sqlite3.Error, OSError) as error:
            raise InputError(
                f"cannot open the ledger: {error}", file=path,
                fix="Check that the disk is neither full nor read-only and that the file is a ledger",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock of the ledger: two labelling jobs at once would pay for the same queries.

        Raises:
            InputError: Another job holds it.
        """
        if str(self.path) == ":memory:":
            yield
            return
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(
                "another labelling job is writing this ledger", file=self.path,
                fix="Wait until it is done, or stop it; its replies are kept",
            ) from None
        try:
            yield
        finally:
            lock.release()

    def replies(self, requests: Iterable[str]) -> dict[str, Reply]:
        """The stored replies to requests: the first usable one, else one that was cut; without one, no entry.

        A verification that could not be read twice is no longer asked for: its last answer is the reply.
        """
        out: dict[str, Reply] = {}
        for part in _parts(list(requests)):
            marks = ",".join("?" * len(part))
            sql = (
                "SELECT request, reply, details, outcome = 'truncated' FROM attempts "
                f"WHERE {ANSWERED} AND request IN ({marks}) ORDER BY outcome = 'ok', outcome = 'truncated', id DESC"
            )
            for request, reply, details, cut in self._read(sql, part):
                out[request] = Reply(reply, json.loads(details), bool(cut))
        return out

    def answered(self, requests: Iterable[str]) -> set[str]:
        """Those of the requests that have a reply; cheaper than `replies`."""
        out: set[str] = set()
        for part in _parts(list(requests)):
            marks = ",".join("?" * len(part))
            sql = f"SELECT DISTINCT request FROM attempts WHERE {ANSWERED} AND request IN ({marks})"
            out.update(r for (r,) in self._read(sql, part))
        return out

    def errors(self, requests: Iterable[str]) -> dict[str, str]:
        """Why the last attempt at each request failed; requests without a failure are left out."""
        out: dict[str, str] = {}
        for part in _parts(list(requests)):
            marks = ",".join("?" * len(part))
            sql = f"SELECT request, error FROM attempts WHERE error IS NOT NULL AND request IN ({marks}) ORDER BY id"
            out.update(self._read(sql, part))
        return out

    def rows(self, queries: Iterable[str]) -> dict[str, LedgerRow]:
        """The rows of queries; queries without a row are left out."""
        stored = {repaired(q): q for q in queries}
        out: dict[str, LedgerRow] = {}
        for part in _parts(list(stored)):
            marks = ",".join("?" * len(part))
            for found in self._read(f"SELECT * FROM rows WHERE query IN ({marks})", part):
                out[stored[found[0]]] = row_of(found)
        return out

    def all_rows(self) -> Iterator[LedgerRow]:
        """Every query's row, by query."""
        last: str | None = None
        while True:
            after = "" if last is None else "WHERE query > ?"
            part = self._read(f"SELECT * FROM rows {after} ORDER BY query LIMIT 1000", () if last is None else (last,))
            yield from (row_of(r) for r in part)
            if len(part) < 1000:
                return
            last = part[-1][0]

    def record(self, attempts: Sequence[Attempt], rows: Sequence[LedgerRow] = ()) -> None:
        """Write attempts, and rows that follow from them, in one transaction; on return they are on disk."""
        now = time.time()
        evidence: dict[str, str] = {}
        values = []
        for a in attempts:
            digest = ""
            if a.evidence:
                content = json_text(a.evidence)
                digest = sha256_text(content)
                if digest not in self._evidence:
                    evidence[digest] = content
            values.append(attempt_values(a, digest, now))
        self._transaction([
            ("INSERT OR IGNORE INTO evidence VALUES (?, ?)", list(evidence.items())),
            (f"INSERT INTO attempts ({ATTEMPT_COLUMNS}) VALUES ({','.join('?' * 16)})", values),
            (_UPSERT_ROW, [row_values(r, now) for r in rows]),
        ])
        if len(self._evidence) < 100_000:
            self._evidence |= evidence.keys()

    def write_rows(self, rows: Iterable[LedgerRow]) -> None:
        """Write rows, replacing those of the same queries."""
        now = time.time()
        self._transaction([(_UPSERT_ROW, [row_values(r, now) for r in rows])])

    def note_batch(self, batch: Batch) -> None:
        """Write the state of a batch."""
        requests = repaired(json.dumps(batch.requests, ensure_ascii=False))
        values = (batch.token, batch.id, batch.state, requests, time.time())
        self._transaction([("INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?, ?)", [values])])

    def open_batches(self) -> list[Batch]:
        """Batches that may still have answers to collect, oldest first."""
        sql = "SELECT token, id, state, requests FROM batches WHERE state IN ('uploading', 'made') ORDER BY updated"
        return [
            Batch(token=t, id=i, state=s, requests=tuple((k, q, p) for k, q, p in json.loads(r)))
            for t, i, s, r in self._read(sql)
        ]

    def recorded_of(self, batch: str) -> set[str]:
        """The requests of a batch whose answers are recorded."""
        sql = "SELECT request FROM attempts WHERE json_extract(details, '$.batch') = ?"
        return {r for (r,) in self._read(sql, (batch,))}

    def _transaction(self, work: Sequence[tuple[str, Sequence[tuple[Any, ...]]]]) -> None:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                for sql, values in work:
                    if values:
                        self._db.executemany(sql, values)
                self._db.execute("COMMIT")
            except BaseException as error:  # what is left open would refuse every later write
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if not isinstance(error, sqlite3.OperationalError):
                    raise
                raise InputError(
                    f"cannot write the ledger: {error}", file=self.path,
                    fix="Check that the disk is neither full nor read-only, then run the same command",
                ) from error

    def select(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a SELECT over the tables above."""
        return self._read(sql, values)

    def _read(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def spent(self) -> dict[str, float]:
        """Sums over all attempts: calls, tokens and money."""
        row = self._read(
            "SELECT COUNT(*), COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0), "
            "COALESCE(SUM(cost), 0) FROM attempts"
        )[0]
        return dict(zip(("attempts", "prompt_tokens", "completion_tokens", "cost"), row, strict=True))

    def costs(self, by: Literal["model", "day", "outcome", "purpose"]) -> list[dict[str, Any]]:
        """Calls, tokens, money and mean latency of the attempts, grouped by one column."""
        column = {"day": "date(created, 'unixepoch')"}.get(by, by)
        sql = (
            f"SELECT {column}, COUNT(*), SUM(prompt_tokens), SUM(completion_tokens), SUM(cost), AVG(latency_s) "
            "FROM attempts GROUP BY 1 ORDER BY 5 DESC, 2 DESC, 1"
        )
        names = (by, "attempts", "prompt_tokens", "completion_tokens", "cost", "latency_s")
        return [dict(zip(names, r, strict=True)) for r in self._read(sql)]

    def statuses(self) -> dict[str, tuple[int, int]]:
        """Status → number of queries and their traffic."""
        # In two halves: a sum beyond 64 bits is an error in SQLite.
        sql = "SELECT status, COUNT(*), SUM(count >> 32), SUM(count & 4294967295) FROM rows GROUP BY 1"
        return {s: (n, (high << 32) + low) for s, n, high, low in self._read(sql)}

    def evidence(self, queries: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The context of the last attempt to label each query."""
        out: dict[str, dict[str, Any]] = {}
        for part in _parts([repaired(q) for q in queries]):
            marks = ",".join("?" * len(part))
            sql = (
                "SELECT a.query, e.content FROM attempts a JOIN evidence e ON e.hash = a.evidence "
                f"WHERE a.query IN ({marks}) ORDER BY a.id"
            )
            out.update((query, json.loads(content)) for query, content in self._read(sql, part))
        return out

    def attempts(self, query: str | None = None) -> Iterator[dict[str, Any]]:
        """Attempts, all or one query's, oldest first, each with its evidence."""
        last = 0
        where = "" if query is None else "AND a.query = ?"
        while True:
            sql = (
                "SELECT a.*, e.content FROM attempts a LEFT JOIN evidence e ON e.hash = a.evidence "
                f"WHERE a.id > ? {where} ORDER BY a.id LIMIT 1000"
            )
            with self._lock:
                cursor = self._db.execute(sql, (last,) if query is None else (last, repaired(query)))
                names = [c[0] for c in cursor.description]
                part = cursor.fetchall()
            for found in part:
                row = dict(zip(names, found, strict=True))
                row["evidence_hash"], row["evidence"] = row["evidence"], row.pop("content")
                yield row
            if len(part) < 1000:
                return
            last = part[-1][0]


_UPSERT_ROW = f"INSERT OR REPLACE INTO rows VALUES ({','.join('?' * 11)})"


def _parts(values: Sequence[str], size: int = 500) -> Iterator[Sequence[str]]:
    for at in range(0, len(values), size):
        yield values[at : at + size]

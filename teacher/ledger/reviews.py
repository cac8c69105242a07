"""What people decided about the labels of queries: a table of the ledger, and the verdict that follows from it.

A decision outranks the teacher's labels and stays when a query is labelled again. Decisions are only added: one that is
taken back keeps its row, with the time. Each has a token of whoever sends it, so that one that is sent twice counts
once. On return from `Reviews.add` and `Reviews.take_back` a decision is on disk.

Of each person the latest decision about a query counts. Where these differ the query is disputed, and neither learned
nor used as gold until somebody settles it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, get_args

from task.errors import InputError
from task.files import sha256_json
from task.labels import Example, Label, Labelling
from task.text import repaired
from teacher.ledger.ledger import Ledger

Decision = Literal["accept", "correct", "reject", "skip", "settle"]
Queue = Literal["uncertain", "picked", "audit", "mistakes", "search"]
QUEUES: Final[tuple[Queue, ...]] = get_args(Queue)
AUDIT: Final = "audit"
"""The queue of randomly drawn queries: what is decided in it becomes gold, and is never learned."""
_WAIT_S: Final = 30.0  # for another process that writes the ledger
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS reviews (
    id INTEGER PRIMARY KEY,
    token TEXT NOT NULL UNIQUE,
    query TEXT NOT NULL,
    count INTEGER NOT NULL,
    queue TEXT NOT NULL,
    person TEXT NOT NULL,
    decision TEXT NOT NULL,
    labels TEXT NOT NULL,
    before TEXT NOT NULL,
    created REAL NOT NULL,
    undone REAL
);
CREATE INDEX IF NOT EXISTS reviews_by_query ON reviews (query);
"""
_COUNTING: Final = "WHERE undone IS NULL AND decision != 'skip' ORDER BY id"
_COLUMNS: Final = "id, token, query, count, queue, person, decision, labels, before, created, undone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A decision of a person about the labels of a query.

    Attributes:
        token: Unique; chosen by the sender.
        count: Traffic of the query when it was decided.
        decision: `accept` and `correct` say what the labels are, `settle` does so for a disputed query; `reject`: the
            query is not to be learned; `skip`: the person leaves it to others.
        labels: What they are, or for `reject` and `skip` what was shown.
        before: What was shown.
        created: Seconds since the epoch.
        undone: When it was taken back; None if it was not.
        id: Of the row; 0 before it is written.
    """

    token: str
    query: str
    count: int
    queue: Queue
    person: str
    decision: Decision
    labels: Labelling
    before: Labelling
    created: float
    undone: float | None = None
    id: int = 0

    @property
    def counts(self) -> bool:
        """Whether it says something about the query."""
        return self.undone is None and self.decision != "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What follows from the decisions about a query.

    Attributes:
        outcome: `labels`: it has the labels of this verdict. `rejected`: it is neither learned nor used as gold.
            `disputed`: the same, until somebody settles it.
        gold: Whether it is used as gold instead of being learned.
        before: What the first of these people was shown.
        people: Who decided, in the order of their decisions.
    """

    query: str
    count: int
    outcome: Literal["labels", "rejected", "disputed"]
    gold: bool
    labels: Labelling
    before: Labelling
    people: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether people gave other labels than they were shown."""
        return self.outcome == "labels" and keys(self.labels) != keys(self.before)


class Reviews:
    """The decisions of people in a ledger, which is created if it does not exist; usable from several threads."""

    def __init__(self, path: Path) -> None:
        """Open the ledger. Raises `InputError` where that is not possible."""
        self.path = path
        self._lock = threading.Lock()
        with Ledger(path):
            pass
        try:
            self._db = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise _unwritable(path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add(self, review: Review) -> bool:
        """Write a decision; returns False if one with its token is there already."""
        values = (
            review.token, repaired(review.query), review.count, review.queue, review.person, review.decision,
            _text(review.labels), _text(review.before), review.created,
        )
        with self._lock:
            try:
                done = self._db.execute(
                    "INSERT INTO reviews (token, query, count, queue, person, decision, labels, before, created) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (token) DO NOTHING", values,
                )
            except sqlite3.Error as error:
                raise _unwritable(self.path, error) from error
            return done.rowcount == 1

    def take_back(self, token: str, person: str) -> Review | None:
        """Take back one's own decision; returns it, or None if there is none that has not been taken back."""
        with self._lock:
            try:
                done = self._db.execute(
                    "UPDATE reviews SET undone = ? WHERE token = ? AND person = ? AND undone IS NULL",
                    (time.time(), token, person),
                )
            except sqlite3.Error as error:
                raise _unwritable(self.path, error) from error
        return next(iter(self._select("WHERE token = ?", [token])), None) if done.rowcount else None

    def last_of(self, person: str, queue: Queue) -> Review | None:
        """The latest decision of a person in a queue that was not taken back."""
        found = self._select(
            "WHERE person = ? AND queue = ? AND undone IS NULL ORDER BY id DESC LIMIT 1", [person, queue]
        )
        return next(iter(found), None)

    def of(self, query: str) -> list[Review]:
        """All decisions about a query, oldest first."""
        return self._select("WHERE query = ? ORDER BY id", [repaired(query)])

    def latest(self, limit: int, *, before: int | None = None) -> list[Review]:
        """Decisions, newest first.

        Args:
            before: Only those with a smaller id.
        """
        return self._select("WHERE id < ? ORDER BY id DESC LIMIT ?", [2**62 if before is None else before, limit])

    def counting(self) -> list[Review]:
        """All decisions that say something, oldest first."""
        return self._select(_COUNTING, [])

    def seen_by(self, person: str, queue: Queue) -> set[str]:
        """Queries that a person has decided or skipped in a queue."""
        with self._lock:
            rows = self._db.execute(
                "SELECT DISTINCT query FROM reviews WHERE person = ? AND queue = ? AND undone IS NULL", (person, queue)
            ).fetchall()
        return {query for query, in rows}

    def decided(self) -> dict[str, set[str]]:
        """Query → people whose decision about it counts."""
        out: dict[str, set[str]] = defaultdict(set)
        with self._lock:
            rows = self._db.execute(
                "SELECT query, person FROM reviews WHERE undone IS NULL AND decision != 'skip'"
            ).fetchall()
        for query, person in rows:
            out[query].add(person)
        return dict(out)

    def verdicts(self) -> dict[str, Verdict]:
        """Query → what follows from the decisions about it."""
        return _verdicts(self.counting())

    def _select(self, rest: str, values: Sequence[Any]) -> list[Review]:
        with self._lock:
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM reviews {rest}", values).fetchall()
        return [_review(r) for r in rows]


def read_verdicts(ledger: Path) -> dict[str, Verdict]:
    """Query → what people decided, from a ledger that need not exist or have decisions; changes nothing."""
    if not ledger.exists():
        return {}
    try:
        with closing(sqlite3.connect(ledger, timeout=_WAIT_S)) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'reviews'").fetchone():
                return {}
            rows = db.execute(f"SELECT {_COLUMNS} FROM reviews {_COUNTING}").fetchall()
    except sqlite3.Error as error:
        raise InputError(f"cannot read what people decided: {error}", file=ledger) from error
    return _verdicts(_review(r) for r in rows)


def digest(verdicts: Iterable[Verdict]) -> str:
    """SHA-256 of what verdicts say."""
    return sha256_json(sorted([v.query, v.count, v.outcome, v.gold, keys(v.labels)] for v in verdicts))


def gold_with(rows: Iterable[Example], verdicts: Mapping[str, Verdict]) -> Iterator[Example]:
    """Gold rows as people corrected them; those that they rejected, or have not settled, are left out."""
    for row in rows:
        found = verdicts.get(row.query)
        if found is None:
            yield row
        elif found.outcome == "labels":
            yield replace(row, labels=found.labels)


def audited(verdicts: Mapping[str, Verdict], known: Set[str]) -> Iterator[Example]:
    """The gold rows that came of audits, by query.

    Args:
        known: Queries that are in a table of gold already.
    """
    for query, verdict in sorted(verdicts.items()):
        if verdict.gold and verdict.outcome == "labels" and query not in known:
            yield Example(query, verdict.labels, verdict.count)


def keys(labels: Iterable[Label]) -> list[tuple[str, str, int, int]]:
    """What two labellings are compared by: role, text and span, in an order that does not matter."""
    return sorted(x.key for x in labels)


def changes(verdicts: Iterable[Verdict]) -> dict[str, dict[str, int]]:
    """Role → labels that people `added` and `removed`; a label that was moved or changed counts as both."""
    out: dict[str, dict[str, int]] = defaultdict(lambda: {"added": 0, "removed": 0})
    for verdict in verdicts:
        if verdict.outcome == "labels":
            now, before = (Counter(x.key for x in labels) for labels in (verdict.labels, verdict.before))
            for what, difference in (("added", now - before), ("removed", before - now)):
                for (role, *_), number in difference.items():
                    out[role][what] += number
    return dict(sorted(out.items()))


def _verdicts(reviews: Iterable[Review]) -> dict[str, Verdict]:
    of: dict[str, list[Review]] = defaultdict(list)
    for review in reviews:
        of[review.query].append(review)
    return {query: _verdict(found) for query, found in of.items()}


def _verdict(reviews: Sequence[Review]) -> Verdict:
    """Of decisions about one query, oldest first; the latest that settled it stands for those before it."""
    settled = max((i for i, r in enumerate(reviews) if r.decision == "settle"), default=0)
    latest = {r.person: r for r in reviews[settled:]}
    opinions = {json.dumps(["rejected"] if r.decision == "reject" else keys(r.labels)) for r in latest.values()}
    last = reviews[-1]
    outcome: Literal["labels", "rejected", "disputed"] = (
        "disputed" if len(opinions) > 1 else "rejected" if last.decision == "reject" else "labels"
    )
    return Verdict(
        query=last.query, count=last.count, outcome=outcome, gold=any(r.queue == AUDIT for r in reviews),
        labels=_certain(last.labels), before=reviews[0].before,
        people=tuple(dict.fromkeys(r.person for r in reviews)),
    )


def _certain(labels: Labelling) -> Labelling:
    """A person's labels have no estimated probability."""
    return tuple(replace(x, confidence=None) for x in labels)


def _review(row: Sequence[Any]) -> Review:
    id_, token, query, count, queue, person, decision, labels, before, created, undone = row
    return Review(
        id=id_, token=token, query=query, count=count, queue=queue, person=person, decision=decision,
        labels=_labels(labels), before=_labels(before), created=created, undone=undone,
    )


def _text(labels: Labelling) -> str:
    return repaired(json.dumps([x.to_json() for x in labels], ensure_ascii=False))


def _labels(text: str) -> Labelling:
    return tuple(Label.from_json(x) for x in json.loads(text))


def _unwritable(path: Path, error: sqlite3.Error) -> InputError:
    return InputError(
        f"cannot write a decision: {error}", file=path,
        fix="Check that the disk is neither full nor read-only, then send it again",
    )

"""Taking a query out of a ledger: its row, all attempts at it with their raw replies, and its text in others' context.

This is the only exception to "attempts are append-only". What was spent on the query is no longer counted.
"""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from task.errors import InputError
from teacher.ledger.ledger import Ledger

_OPEN = ("uploading", "made")  # states of batches that the provider still holds
_WAIT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What was removed, or would be.

    Attributes:
        rows: Current rows of the query.
        attempts: Calls about it.
        contexts: Contexts of other queries that named it, as a neighbour or an example.
        batches: Open batches that have requests about it. They stay: their answers are still to be collected.
        decisions: Of people about its labels.
    """

    rows: int
    attempts: int
    contexts: int
    batches: int
    decisions: int


def forget(path: Path, same: Callable[[str], bool], *, dry_run: bool) -> Removed:
    """Remove a query from a ledger, in one transaction, and overwrite what it occupied in the file.

    Args:
        same: Whether a text is the query.
        dry_run: Only count.

    Raises:
        InputError: A labelling job is writing the ledger, or it cannot be written.
    """
    with Ledger(path) as ledger, ledger.writing(), _opened(path) as db:
        db.create_function("same", 1, functools.lru_cache(maxsize=10_000)(lambda x: x is not None and same(x)))
        removed, contexts = _found(db, same)
        if dry_run:
            return removed
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM rows WHERE same(query)")
        db.execute("DELETE FROM attempts WHERE same(query)")
        if removed.decisions:
            db.execute("DELETE FROM reviews WHERE same(query)")
        db.execute("DELETE FROM evidence WHERE hash NOT IN (SELECT evidence FROM attempts)")
        db.executemany("UPDATE evidence SET content = ? WHERE hash = ?", [(c, h) for h, c in contexts])
        db.executemany("UPDATE batches SET requests = ? WHERE token = ?", [
            (left, token) for token, state, left in _batches(db, same) if state not in _OPEN
        ])
        db.execute("COMMIT")
        db.execute("VACUUM")  # what was deleted before pages were overwritten
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=_WAIT_S)) as db:
            db.execute("PRAGMA secure_delete = ON")
            yield db
    except sqlite3.Error as error:
        raise InputError(
            f"cannot write the ledger: {error}", file=path,
            fix="Check that the disk is neither full nor read-only, then run the same command",
        ) from error


def _found(db: sqlite3.Connection, same: Callable[[str], bool]) -> tuple[Removed, list[tuple[str, str]]]:
    """What is there, and the contexts of other queries without the query, by their hash."""
    contexts = [
        (digest, json.dumps(left, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
        for digest, content in db.execute(
            "SELECT hash, content FROM evidence WHERE hash IN (SELECT evidence FROM attempts WHERE NOT same(query))"
        )
        if (left := _without(value := json.loads(content), same)) != value
    ]
    return Removed(
        rows=db.execute("SELECT COUNT(*) FROM rows WHERE same(query)").fetchone()[0],
        attempts=db.execute("SELECT COUNT(*) FROM attempts WHERE same(query)").fetchone()[0],
        contexts=len(contexts), batches=sum(state in _OPEN for _, state, _ in _batches(db, same)),
        decisions=_decisions(db),
    ), contexts


def _decisions(db: sqlite3.Connection) -> int:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'reviews'").fetchone():
        return 0  # nobody has decided anything yet
    return int(db.execute("SELECT COUNT(*) FROM reviews WHERE same(query)").fetchone()[0])


def _batches(db: sqlite3.Connection, same: Callable[[str], bool]) -> list[tuple[str, str, str]]:
    """Batches with requests about the query: token, state, and the other requests as JSON."""
    out = []
    for token, state, requests in db.execute("SELECT token, state, requests FROM batches").fetchall():
        found = json.loads(requests)
        left = [r for r in found if not same(r[1])]
        if len(left) < len(found):
            out.append((token, state, json.dumps(left, ensure_ascii=False)))
    return out


def _without(value: Any, same: Callable[[str], bool]) -> Any:
    """A context without the query in its lists: as a text of its own, or as an example with its labels."""
    if isinstance(value, dict):
        return {k: _without(v, same) for k, v in value.items()}
    if not isinstance(value, list):
        return value
    return [_without(v, same) for v in value if not _is(v, same)]


def _is(value: Any, same: Callable[[str], bool]) -> bool:
    text = value.get("query") if isinstance(value, dict) else value
    return isinstance(text, str) and same(text)

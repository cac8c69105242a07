"""Keep the label index equal to the rows of a ledger that a labelling job may be writing at the same time.

The ledger replaces a row by deleting it and inserting another, whose rowid is greater than all others (SQLite takes
the greatest plus one). What was added or changed since the last row that was read is therefore `rowid > last`. An old
row of the same query is marked as gone in the transaction that adds the new one.

This does not show deletions (`limbeck forget`), nor rowids that were given again: of rows that were deleted at the end,
by `VACUUM`, or in another file. For the latter, the last row of the ledger that should be known is looked at: it must
be the same in the index, else all is read again, into another generation. For the former, rows are counted; where the
index has more, those that the ledger lacks are removed, and overwritten in the file.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np

from limbeck.console import label_store as store
from limbeck.console.label_block import BLOCK, Columns, Entry, Hashes, Longs, block_of, hash_of, joined, query_at
from limbeck.console.student_labels import StudentLabels, agreement, digest_of
from task.errors import InputError
from teacher.ledger.records import STATUSES

BATCH: Final = 8_192
"""Rows of the ledger that are in memory at once."""
_GROWTH: Final = 4  # a block is joined with the new rows if it is not more than this many times as large
_WAIT_S: Final = 30.0
_ROWS: Final = (
    "SELECT rowid, query, count, status, reason, labels, confidence, verdicts, updated FROM rows WHERE rowid > ? "
    "ORDER BY rowid LIMIT ?"
)


class _RenumberedError(Exception):
    """The index has not what the ledger has; it is built again."""


@contextmanager
def reading(ledger: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a ledger that cannot write it.

    Raises:
        InputError: It is not there, or is no ledger.
    """
    db = None
    try:
        address = f"file:{quote(str(ledger.resolve()))}?mode=ro"
        db = sqlite3.connect(address, uri=True, isolation_level=None, timeout=_WAIT_S)
        db.execute("SELECT 1 FROM rows LIMIT 1").fetchone()
    except sqlite3.Error as error:
        if db is not None:
            db.close()
        raise InputError(f"cannot read the ledger: {error}", file=ledger) from error
    with closing(db):
        yield db


class Update:
    """One pass of following the ledger; it can be killed at any time, and another one goes on from there."""

    def __init__(
        self, db: sqlite3.Connection, ledger: sqlite3.Connection, students: StudentLabels, stop: threading.Event
    ) -> None:
        self._db, self._ledger, self._students, self._stop = db, ledger, students, stop
        self._numbers = store.Numbers(db)
        self._generation = 0
        self._predictions = False

    def run(self) -> None:
        """Read what is new until nothing is, or until somebody wants an end."""
        self._compare_students()
        self._begin()
        while not self._stop.is_set():
            started = time.time()
            with store.snapshot(self._ledger):
                try:
                    complete = self._batch()
                except _RenumberedError:
                    self._begin(again=True)
                    continue
            if complete:
                self._finish(started)
                return

    # -- generations ----------------------------------------------------------------------------------------------

    def _begin(self, again: bool = False) -> None:
        """Go on with the generation that is being built, else with the shown one, or `again` with a new one."""
        shown, building = store.get(self._db, "shown"), store.get(self._db, "building")
        if not again and (known := shown if building is None else building) is not None:
            self._generation = known
            return
        self._generation = max(shown or 0, building or 0) + 1
        with store.writing(self._db):
            if building is not None:
                self._remove(building)
            store.put(self._db, building=self._generation, **{f"last_{self._generation}": 0})

    def _continues(self, last: int) -> bool:
        """Whether the last row of the ledger that the index should have is the same in both."""
        sql = "SELECT rowid, query, updated FROM rows WHERE rowid <= ? ORDER BY rowid DESC LIMIT 1"
        found = self._ledger.execute(sql, (last,)).fetchone()
        if found is None:
            return True  # whatever was known has been replaced, or is found to be missing
        rowid, query, updated = found
        for block in store.blocks(self._db, self._generation):
            for at in np.flatnonzero((block["rowid"] == rowid) & block["alive"]):
                return bool(block["updated"][at] == updated) and query_at(block, at) == query
        return False

    def _finish(self, started: float) -> None:
        with store.writing(self._db):
            if store.get(self._db, "building") == self._generation:
                if (before := store.get(self._db, "shown")) is not None:
                    self._remove(before)
                    store.remove_unused(self._db)
                store.put(self._db, shown=self._generation, building=None)
            store.put(self._db, as_of=started)

    def _remove(self, generation: int) -> None:
        for block in store.blocks(self._db, generation):
            block.remove()
        self._db.execute("DELETE FROM state WHERE name = ?", (f"last_{generation}",))

    # -- rows -----------------------------------------------------------------------------------------------------

    def _batch(self) -> bool:
        """Read and write the next rows; returns whether the index has everything that the ledger has at this moment.

        Raises:
            _RenumberedError: The ledger does not continue what was read.
        """
        last = store.get(self._db, f"last_{self._generation}")
        if not self._continues(last):
            raise _RenumberedError
        with store.writing(self._db):
            entries = [self._entry(row) for row in self._ledger.execute(_ROWS, (last, BATCH))]
            if entries:
                self._predicted(entries)
                self._replace(entries)
                store.put(self._db, **{f"last_{self._generation}": entries[-1].rowid})
        if len(entries) == BATCH:
            return False
        if self._ledger.execute("SELECT COUNT(*) FROM rows").fetchone()[0] != store.living(self._db, self._generation):
            self._remove_missing()
        return True

    def _entry(self, row: Sequence[Any]) -> Entry:
        rowid, query, count, status, reason, labels, confidence, verdicts, updated = row
        found = json.loads(labels)
        facets = [self._numbers.of(x["role"], x["text"]) for x in found]
        reasons = (reason, *(v.get("reason", "") for v in json.loads(verdicts)))
        facets += [self._numbers.of("", r) for r in reasons if r]
        return Entry(
            rowid, query, count, confidence, STATUSES.index(status), digest_of(found), updated, 0,
            tuple(dict.fromkeys(facets)),
        )

    def _replace(self, entries: Sequence[Entry]) -> None:
        """Add rows; those of the same queries are gone. Small blocks are joined, so that there are few."""
        hashes, queries = Hashes(hash_of(e.query) for e in entries), {e.query for e in entries}
        for block in store.blocks(self._db, self._generation):
            hits = hashes.among(block["hash"]) & block["alive"]
            if hits.any():
                hits[[at for at in np.flatnonzero(hits) if query_at(block, at) not in queries]] = False
                block.kill(hits)
        self._add(block_of(entries))

    def _add(self, columns: Columns) -> None:
        size = len(columns["alive"])
        parts: list[Columns] = []
        for block in sorted(store.blocks(self._db, self._generation), key=lambda b: b.living):
            small = block.living <= _GROWTH * size or block.living <= block.size // 2
            if small and size + block.living <= BLOCK:
                parts.append({name: block[name] for name in block})
                size += block.living
                block.remove()
        store.add_block(self._db, self._generation, joined([*parts, columns]) if parts else columns)

    def _remove_missing(self) -> None:
        """Remove rows that the ledger lacks, with their texts.

        Raises:
            _RenumberedError: The ledger has rows that the index should have and has not.
        """
        known: Longs = np.fromiter((r for (r,) in self._ledger.execute("SELECT rowid FROM rows")), np.int64)
        known.sort()
        left = 0
        with store.writing(self._db):
            for block in store.blocks(self._db, self._generation):
                places = np.searchsorted(known, block["rowid"])
                there = np.append(known, -1)[places] == block["rowid"]
                left += int(np.count_nonzero(there & block["alive"]))
                if not (there | ~block["alive"]).all():
                    rest = {**block, "alive": block["alive"] & there}
                    block.remove()
                    if rest["alive"].any():
                        store.add_block(self._db, self._generation, joined([rest]))
            store.remove_unused(self._db)
        store.empty_log(self._db)
        self._numbers = store.Numbers(self._db)
        if left < len(known):
            raise _RenumberedError

    # -- predictions of students ----------------------------------------------------------------------------------

    def _compare_students(self) -> None:
        """Read the predictions if their files have changed, and compare all rows with them."""
        signature = self._students.signature()
        self._predictions = bool(signature)
        if signature == store.get(self._db, "students", []):
            return
        with store.writing(self._db):
            store.set_predictions(self._db, self._students.read())
            for (generation,) in self._db.execute("SELECT DISTINCT generation FROM blocks").fetchall():
                for block in store.blocks(self._db, generation):
                    block.set("student", self._agreements(
                        block["hash"].tolist(), block["status"].tolist(), block["digest"].tolist(),
                        block["updated"].tolist(),
                    ))
            store.put(self._db, students=signature)

    def _predicted(self, entries: list[Entry]) -> None:
        if not self._predictions:
            return
        hashes = [hash_of(e.query) for e in entries]
        found = self._agreements(
            hashes, [e.status for e in entries], [e.digest for e in entries], [e.updated for e in entries]
        )
        entries[:] = [_with(e, int(s)) for e, s in zip(entries, found, strict=True)]

    def _agreements(
        self, hashes: Sequence[int], statuses: Sequence[int], digests: Sequence[int], updated: Sequence[float]
    ) -> Any:
        found = store.predicted(self._db, hashes)
        return np.array([
            agreement(STATUSES[s], d, u, found.get(h))
            for h, s, d, u in zip(hashes, statuses, digests, updated, strict=True)
        ], "u1")


def _with(entry: Entry, student: int) -> Entry:
    return replace(entry, student=student)


def decided(ledger: sqlite3.Connection) -> Hashes:
    """The queries that people have decided about, by their hashes; an older ledger has no table of them."""
    if not ledger.execute("SELECT 1 FROM sqlite_master WHERE name = 'reviews'").fetchone():
        return Hashes(())
    sql = "SELECT DISTINCT query FROM reviews WHERE undone IS NULL AND decision != 'skip'"
    return Hashes(hash_of(q) for (q,) in ledger.execute(sql))

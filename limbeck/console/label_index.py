"""The label list of the console: the rows of a ledger filtered, searched, sorted and paged, however many they are.

The index is a file beside the ledger (`console/labels.sqlite` in the run folder) that follows it (`label_update`). It
says which rows a page has and in what order; what they say is read from the ledger, so that a page shows current labels
and nothing that was forgotten.

The structure was chosen by measurement, of a million rows with 4.4 million labels and reasons, in CPU time on two cores
that others used too:

- SQLite with an index for each order that has all scalars in it, a table of labels, and FTS5's trigrams for texts: a
  first page that most rows pass takes less than 1 ms. A text of two characters, which trigrams do not find, takes 490
  to 850 ms, a combination that few rows pass 3.1 s, and counting one 9.2 s. Made in 97 s, 421 MB.
- Roaring bitmaps, one for each value of a facet: combining them takes less than 1 ms, and 3 to 68 ms finding the first
  50 in an order. Ranges and texts, which take the time, are not helped, and a row that changes renumbers the order.
- Columns in blocks, read and compared as a whole (`label_block`, `label_search`): 35 to 75 ms without a text, 45 to 170
  ms with one, whatever passes, and the number of rows comes with each page. Made in 105 s, 142 MB. With blocks of
  65,536 rows twice as much, with 8,192 a third more than with 16,384; with pages of 16 KiB in the file a third more
  than with 64 KiB.

The last is what there is: its worst case is the best, and nothing is kept in memory between two pages.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from filelock import FileLock, Timeout

from limbeck.artefacts import RunFolder
from limbeck.console import label_store as store
from limbeck.console.label_block import Hashes, hash_of
from limbeck.console.label_facets import Facets, facets, no_predictions, values
from limbeck.console.label_filter import LabelFilter
from limbeck.console.label_search import Hit, Matcher, find, from_cursor, to_cursor
from limbeck.console.label_update import Update, decided, reading
from limbeck.console.student_labels import ConsoleFolder, StudentLabels
from task.labels import Label, Labelling
from teacher.ledger.records import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

_COUNTED: Final = 64  # filters whose numbers of rows are kept
_FRESH_S: Final = 5.0  # while an update goes on, facets may be so old
_ROW: Final = "SELECT query, count, status, reason, labels, confidence FROM rows WHERE"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """A row of a page. `reviewed`: a person has decided about it."""

    query: str
    count: int
    status: Status
    confidence: float
    labels: Labelling
    reason: str
    reviewed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPage:
    """Rows in the order of the filter, and the cursors of the pages beside this one; None at an end of the list.

    Attributes:
        total: Rows that pass the filter.
    """

    rows: list[LabelRow]
    next: str | None
    previous: str | None
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexState:
    """How far the index follows the ledger.

    Attributes:
        as_of: When it last had everything that the ledger had, in seconds since the epoch; None before the first time.
        rows: Rows that pages are made from.
        updating: Whether an update is going on in this process.
        read: Rows that are read of a generation that is being built; None if none is.
    """

    as_of: float | None
    rows: int
    updating: bool
    read: int | None


class LabelIndex:
    """The label list of a run. Its methods may be called from several threads; `update` is for one of its own."""

    def __init__(self, run: RunFolder) -> None:
        """Make the file of the index if there is none; it is empty until the first `update`.

        Raises:
            InputError: The ledger cannot be read, or there is a file in the place of the index that is none.
        """
        self._run = run
        self.path = ConsoleFolder(run.folder / "console").index
        self._lock = threading.Lock()
        self._updating = False
        self._recent: dict[int, bool] = {}
        self._counted: dict[tuple[Any, ...], int] = {}
        self._facets: tuple[Any, float, Facets] | None = None
        with store.opened(self.path), self._ledger() as ledger:
            self._reviewed = decided(ledger)
        self._decisions = 0  # how often that has changed

    # -- following the ledger -------------------------------------------------------------------------------------

    def update(self, stop: threading.Event | None = None) -> bool:
        """Bring the index up to date; returns False where another thread or process is doing so.

        Pages are answered meanwhile, from what is complete. What is done is kept if it is killed or stopped.

        Args:
            stop: Set by another thread to end early.

        Raises:
            InputError: The ledger or a file of predictions cannot be read, or the index cannot be written.
        """
        try:
            lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), blocking=False, thread_local=False)
            lock.acquire()
        except Timeout:
            return False
        try:
            self._updating = True
            with store.opened(self.path) as db, self._ledger() as ledger:
                self._read_reviews(ledger)
                Update(db, ledger, StudentLabels(self._run), stop or threading.Event()).run()
        except sqlite3.Error as error:
            raise store.broken(self.path, error) from error
        finally:
            self._updating = False
            lock.release()
        return True

    def _read_reviews(self, ledger: sqlite3.Connection) -> None:
        with self._lock:
            self._recent.clear()
        found = decided(ledger)
        with self._lock:  # decisions that came while the table was being read are perhaps not in it
            for member, inside in self._recent.items():
                found = found.changed(member, inside)
            self._reviewed = found
            self._decisions += 1

    def reviewed(self, query: str, now: bool) -> None:
        """Take in at once that a person has decided about a query, or has taken it back, after the ledger has it."""
        with self._lock:
            self._recent[hash_of(query)] = now
            self._reviewed = self._reviewed.changed(hash_of(query), now)
            self._decisions += 1

    def state(self) -> IndexState:
        """How old the index is."""
        with self._shown() as db:
            shown, building = store.shown_generation(db), store.get(db, "building")
            read = None if building is None else store.living(db, building)
            return IndexState(
                as_of=store.get(db, "as_of"), rows=store.living(db, shown), updating=self._updating, read=read
            )

    # -- pages ----------------------------------------------------------------------------------------------------

    def page(
        self, wanted: LabelFilter, *, after: str | None = None, before: str | None = None, limit: int = 50
    ) -> LabelPage:
        """The rows after or before a cursor, without one the first.

        A row that changes moves to its new place; of the others none is shown twice or left out.

        Raises:
            ValueError: A cursor of another list, or a filter by the student's labels without any; the message is for
                the user.
        """
        forth = from_cursor(after, wanted) if after else None
        back = from_cursor(before, wanted) if before else None
        with self._shown() as db:
            self._check(db, wanted)
            reviewed = self._reviewed
            hits = find(
                store.blocks(db, store.shown_generation(db)), Matcher(db, wanted, reviewed), wanted, limit=limit,
                after=forth, before=back,
            )
            self._count(self._key(db, wanted), hits.total)
            with self._ledger() as ledger:
                rows = [row for hit in hits.rows if (row := self._row(db, ledger, hit, reviewed)) is not None]
        return LabelPage(
            rows=rows, total=hits.total,
            next=to_cursor(hits.rows[-1].place, wanted) if hits.rows and hits.after else None,
            previous=to_cursor(hits.rows[0].place, wanted) if hits.rows and hits.before else None,
        )

    def count(self, wanted: LabelFilter) -> int:
        """How many rows pass a filter. Raises like `page`."""
        with self._shown() as db:
            self._check(db, wanted)
            key = self._key(db, wanted)
            if key not in self._counted:
                shown = store.blocks(db, store.shown_generation(db))
                self._count(key, find(shown, Matcher(db, wanted, self._reviewed), wanted, limit=1).total)
            return self._counted[key]

    def facets(self) -> Facets:
        """What there is to filter by; while an update goes on, it may be some seconds old."""
        with self._shown() as db:
            version, now = _version(db), time.monotonic()
            if (known := self._facets) is not None:
                before, at, found = known
                if before == version or (self._updating and now < at + _FRESH_S):
                    return found
            found = facets(db)
            self._facets = version, now, found
            return found

    def values(self, role: str, prefix: str = "") -> dict[str, int]:
        """The most frequent values of a role that begin with a text, in any case, with the number of rows of each."""
        with self._shown() as db:
            return values(db, role, prefix) if role else {}

    # -- inside ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _shown(self) -> Iterator[sqlite3.Connection]:
        with store.opened(self.path) as db, store.snapshot(db):
            yield db

    @contextmanager
    def _ledger(self) -> Iterator[sqlite3.Connection]:
        with reading(self._run.ledger) as db:
            yield db

    def _check(self, db: sqlite3.Connection, wanted: LabelFilter) -> None:
        if wanted.student is not None and (problem := no_predictions(db)) is not None:
            raise ValueError(problem)

    def _key(self, db: sqlite3.Connection, wanted: LabelFilter) -> Any:
        """Filters with the same rows in an unchanged index have the same."""
        return _version(db), self._decisions, replace(wanted, order="doubt", reverse=False, seed=0)

    def _count(self, key: Any, total: int) -> None:
        with self._lock:
            while len(self._counted) >= _COUNTED:
                del self._counted[next(iter(self._counted))]
            self._counted[key] = total

    def _row(
        self, db: sqlite3.Connection, ledger: sqlite3.Connection, hit: Hit, reviewed: Hashes
    ) -> LabelRow | None:
        """A row as the ledger has it now; None if it has been removed."""
        query = store.query_of(db, hit.block, hit.at)
        found = ledger.execute(f"{_ROW} rowid = ? AND query = ?", (hit.rowid, query)).fetchone()
        found = found or ledger.execute(f"{_ROW} query = ?", (query,)).fetchone()
        if found is None:
            return None
        query, count, status, reason, labels, confidence = found
        return LabelRow(
            query=query, count=count, status=status, confidence=confidence, reason=reason,
            labels=tuple(Label.from_json(x) for x in json.loads(labels)),
            reviewed=bool(reviewed.among(np.array([hash_of(query)]))[0]),
        )


def _version(db: sqlite3.Connection) -> tuple[Any, ...]:
    """Changes whenever rows do, or what a student predicts."""
    sql = "SELECT MAX(id), COUNT(*), SUM(living) FROM blocks"
    others = (store.shown_generation(db), store.get(db, "file"), json.dumps(store.get(db, "students")))
    return (*db.execute(sql).fetchone(), *others)

"""Answers kept while the service runs (`serving.write_back`), and purges: answers that no cache may give any more.

One SQLite file that all worker processes share. It may be lost at any time: errors are counted, and the request is
answered without it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from serving.release.head_cache import Hit
from task.labels import Labelling

_SCHEMA = """
create table if not exists answer (
  bundle text not null, text text not null, query text not null, labels blob not null, at real not null,
  expires real not null, primary key (bundle, text)
) without rowid;
create index if not exists answer_expires on answer (expires);
create table if not exists purge (id integer primary key, text text, role text, value text, before real);
"""
_REFRESH_S = 0.1


@dataclass(slots=True)
class Purges:
    """The answers that no cache may give.

    Attributes:
        texts: Normalised queries.
        labels: Role and normalised value; any labelling with such a label is purged.
        before: Bundles made before this time (seconds since 1970) have no cache.
    """

    texts: set[str] = field(default_factory=set)
    labels: set[tuple[str, str]] = field(default_factory=set)
    before: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.texts or self.labels or self.before)


class Store:
    """The file, opened by one process.

    Attributes:
        problems: Reads and writes that failed.
    """

    def __init__(self, path: Path, *, ttl_s: float, max_rows: int) -> None:
        """Open, or make again where the file is damaged.

        Args:
            ttl_s: How long an answer is kept; 0 keeps none.
            max_rows: How many are kept; beyond that the oldest are removed.
        """
        self._path, self._ttl, self._max_rows = path, ttl_s, max_rows
        self.problems = 0
        self._purges, self._version, self._refreshed = Purges(), (-1, -1), 0.0
        self._writes = 0
        try:
            self._db = self._open()
        except sqlite3.Error:  # damaged, or not SQLite: all that it holds can be computed again
            for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
                name.unlink(missing_ok=True)
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._path, timeout=0.05, isolation_level=None)
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = off")
        db.executescript(_SCHEMA)
        return db

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # -- answers --------------------------------------------------------------------------------------------------

    def get(self, bundle: str, *, text: str) -> Hit | None:
        """A kept answer of a bundle (its id) to a normalised text, None where there is none or it has expired."""
        if not self._ttl:
            return None
        try:
            row = self._db.execute(
                "select query, labels from answer where bundle = ? and text = ? and expires > ?",
                (bundle, text, time.time()),
            ).fetchone()
        except sqlite3.Error:
            self.problems += 1
            return None
        return Hit(row[0], row[1]) if row else None

    def put(self, bundle: str, *, text: str, query: str, labels: bytes) -> None:
        """Keep an answer; every 1,000 writes the expired ones and those beyond `max_rows` are removed."""
        if not self._ttl:
            return
        now = time.time()
        try:
            self._db.execute(
                "insert or replace into answer values (?, ?, ?, ?, ?, ?)",
                (bundle, text, query, labels, now, now + self._ttl),
            )
            self._writes += 1
            if self._writes % 1_000 == 1:
                self._db.execute("delete from answer where expires <= ?", (now,))
                over = self._db.execute("select count(*) from answer").fetchone()[0] - self._max_rows
                if over > 0:
                    self._db.execute(
                        "delete from answer where (bundle, text) in "
                        "(select bundle, text from answer order by expires limit ?)", (over,),
                    )
        except sqlite3.Error:
            self.problems += 1

    # -- purges ---------------------------------------------------------------------------------------------------

    def purge(
        self, *, text: str | None = None, label: tuple[str, str] | None = None, before: float | None = None,
    ) -> int:
        """From now on answer nothing of this from any cache; returns how many kept answers were removed.

        Those with a label stay in the file, for `restore`; `count` counts them.

        Args:
            text: A normalised query.
            label: Role and normalised value.
            before: Seconds since 1970; bundles made earlier have no cache, and answers kept earlier are removed.

        Raises:
            sqlite3.Error: It could not be written: the operator must know.
        """
        role, value = label or (None, None)
        self._db.execute("insert into purge (text, role, value, before) values (?, ?, ?, ?)",
                         (text, role, value, before))
        removed = 0
        if text is not None:
            removed += self._db.execute("delete from answer where text = ?", (text,)).rowcount
        if before is not None:
            removed += self._db.execute("delete from answer where at < ?", (before,)).rowcount
        self._refreshed = 0.0
        return removed

    def count(self, label: tuple[str, str], normalise: Callable[[str], str]) -> int:
        """How many kept answers have a label (role and normalised value); any thread may ask, it takes a while."""
        with contextlib.closing(sqlite3.connect(self._path)) as db:
            rows = db.execute("select query, labels from answer where expires > ?", (time.time(),))
            return sum(has_label(Hit(*row).decoded(), {label}, normalise) for row in rows)

    def restore(self) -> int:
        """Undo every purge; returns how many there were."""
        self._refreshed = 0.0
        return self._db.execute("delete from purge").rowcount

    @property
    def purges(self) -> Purges:
        """Purges by all processes, at most a tenth of a second old."""
        now = time.monotonic()
        if now - self._refreshed >= _REFRESH_S:
            self._refreshed = now
            try:
                version = self._db.execute("pragma data_version").fetchone()[0]
                changes = self._db.total_changes
                if (version, changes) != self._version:
                    self._purges, self._version = self._read(), (version, changes)
            except sqlite3.Error:
                self.problems += 1
        return self._purges

    def _read(self) -> Purges:
        found = Purges()
        for text, role, value, before in self._db.execute("select text, role, value, before from purge"):
            if text is not None:
                found.texts.add(text)
            if role is not None:
                found.labels.add((role, value))
            found.before = max(found.before, before or 0.0)
        return found


def has_label(labels: Labelling, purged: set[tuple[str, str]], normalise: Callable[[str], str]) -> bool:
    """Whether a labelling has one of the labels, given as role and normalised value."""
    return any((x.role, normalise(x.text)) in purged for x in labels)

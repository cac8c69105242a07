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
from task.normalize import NORMALISERS

_SCHEMA = """
create table if not exists answer (
  bundle text not null, text text not null, query text not null, labels blob not null, at real not null,
  expires real not null, primary key (bundle, text)
) without rowid;
create index if not exists answer_expires on answer (expires);
create table if not exists purge (id integer primary key, text text, role text, value text, before real);
create table if not exists forgotten (keyed_hash text primary key) without rowid;
"""
_REFRESH_S = 0.1


@dataclass(slots=True)
class Purges:
    """The answers that no cache may give.

    Attributes:
        texts: Normalised queries.
        labels: Role and normalised value; any labelling with such a label is purged.
        before: Bundles made before this time (seconds since 1970) have no cache.
        forgotten: Keyed hashes of queries whose texts nothing may hold any more, not even a purge.
        hashed: The keyed hash of a query; without it nothing is known to be forgotten.
    """

    texts: set[str] = field(default_factory=set)
    labels: set[tuple[str, str]] = field(default_factory=set)
    before: float = 0.0
    forgotten: set[str] = field(default_factory=set)
    hashed: Callable[[str], str] | None = None

    def have(self, text: str) -> bool:
        """Whether no cache may answer a normalised query."""
        return text in self.texts or self.have_forgotten(text)

    def have_forgotten(self, text: str) -> bool:
        """Whether a normalised query was forgotten."""
        return bool(self.forgotten) and self.hashed is not None and self.hashed(text) in self.forgotten

    def __bool__(self) -> bool:
        return bool(self.texts or self.labels or self.before or self.forgotten)


class Store:
    """The file, opened by one process.

    Attributes:
        problems: Reads and writes that failed.
    """

    def __init__(
        self, path: Path, *, ttl_s: float, max_rows: int, hashed: Callable[[str], str] | None = None
    ) -> None:
        """Open, or make again where the file is damaged.

        Args:
            ttl_s: How long an answer is kept; 0 keeps none.
            max_rows: How many are kept; beyond that the oldest are removed.
            hashed: As of `Purges`.
        """
        self._path, self._ttl, self._max_rows, self._hashed = path, ttl_s, max_rows, hashed
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
        """Keep an answer, unless its query was forgotten.

        Every 1,000 writes the expired ones and those beyond `max_rows` are removed.
        """
        if not self._ttl or self.purges.have_forgotten(text):
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

    def forget(self, query: str, *, keyed_hash: str) -> int:
        """Remove all of a query, and let no cache answer it; returns how many kept answers were removed.

        Its text is gone from the file as well, where no other process reads it at this moment; else with a later write.

        Args:
            query: Those that v1 of the normaliser takes for equal are removed with it.

        Raises:
            sqlite3.Error: It could not be written.
        """
        self._db.execute("pragma secure_delete = on")
        self._db.execute("pragma busy_timeout = 10000")  # workers write; nobody waits for this process
        self._db.execute("insert or ignore into forgotten values (?)", (keyed_hash,))
        time.sleep(2 * _REFRESH_S)  # until every worker has seen it, so that none keeps an answer that is on its way
        _define_same(self._db, query)
        removed = self._db.execute("delete from answer where same(text) or same(query)").rowcount
        self._db.execute("delete from purge where same(text)")
        self._db.execute("vacuum")
        self._db.execute("pragma wal_checkpoint(truncate)")
        self._refreshed = 0.0
        return removed

    def restore(self) -> int:
        """Undo every purge; returns how many there were. What was forgotten stays so."""
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
        found = Purges(hashed=self._hashed)
        for text, role, value, before in self._db.execute("select text, role, value, before from purge"):
            if text is not None:
                found.texts.add(text)
            if role is not None:
                found.labels.add((role, value))
            found.before = max(found.before, before or 0.0)
        found.forgotten.update(h for (h,) in self._db.execute("select keyed_hash from forgotten"))
        return found


def kept_of(path: Path, query: str) -> int:
    """How many kept answers a file has for a query and all that v1 of the normaliser takes for equal; only reads."""
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
        _define_same(db, query)
        return int(db.execute("select count(*) from answer where same(text) or same(query)").fetchone()[0])


def _define_same(db: sqlite3.Connection, query: str) -> None:
    """Let SQL ask whether a text is a query."""
    normalise = NORMALISERS["v1"]
    text = normalise(query)
    db.create_function("same", 1, lambda x: x is not None and normalise(x) == text, deterministic=True)


def has_label(labels: Labelling, purged: set[tuple[str, str]], normalise: Callable[[str], str]) -> bool:
    """Whether a labelling has one of the labels, given as role and normalised value."""
    return any((x.role, normalise(x.text)) in purged for x in labels)

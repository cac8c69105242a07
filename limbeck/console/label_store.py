"""The file of the label index: blocks of rows, the values that labels have, and how far it follows the ledger.

Rows belong to a generation. One is shown; where the ledger no longer continues what that was read from, another is
built beside it and shown when it is complete. Each transaction leaves a state that can be shown.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limbeck.console.label_block import TYPES, Columns, hash_of
from limbeck.console.label_filter import fold
from task.errors import InputError

FORMAT: Final = 2
REASON: Final = 0
"""The number of the role that reasons are kept under."""
_TABLES: Final = ("state", "blocks", "columns", "roles", "values", "predictions")
_WAIT_S: Final = 30.0
_PAGE_BYTES: Final = 65_536  # columns are read two to three times as fast as with 4 KiB
_PLACES: Final = {name: i for i, name in enumerate(TYPES)}
_WIDTH: Final = 32
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, generation INTEGER NOT NULL, size INTEGER NOT NULL, living INTEGER NOT NULL
);
-- Number of the block × {_WIDTH} + place of the column.
CREATE TABLE IF NOT EXISTS columns (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS roles (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS "values" (
    id INTEGER PRIMARY KEY, role INTEGER NOT NULL, value TEXT NOT NULL, folded TEXT NOT NULL, UNIQUE (role, value)
);
CREATE INDEX IF NOT EXISTS values_folded ON "values" (role, folded);
CREATE TABLE IF NOT EXISTS predictions (hash INTEGER PRIMARY KEY, digest INTEGER, until REAL);
INSERT OR IGNORE INTO roles VALUES ({REASON}, '');
INSERT OR IGNORE INTO state VALUES ('file', '"' || hex(randomblob(8)) || '"');
PRAGMA user_version = {FORMAT};
COMMIT;
"""


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for one thread; the file is made where it is missing or of another format.

    Raises:
        InputError: That is not possible.
    """
    db = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(path, isolation_level=None, timeout=_WAIT_S)
        db.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes is read from the ledger again
        db.execute("PRAGMA secure_delete = ON")  # a query that was forgotten is not left in free pages
        if db.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
            db.executescript("".join(f'DROP TABLE IF EXISTS "{name}";' for name in _TABLES))
            db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_SCHEMA)
    except (sqlite3.Error, OSError) as error:
        if db is not None:
            db.close()
        raise broken(path, error) from error
    with closing(db):
        yield db


def broken(path: Path, error: Exception) -> InputError:
    """The file cannot be used."""
    return InputError(
        f"the index of labels cannot be used: {error}", file=path,
        fix="Check that the disk is neither full nor read-only, then remove the file: it is made again from the ledger",
    )


@contextmanager
def writing(db: sqlite3.Connection) -> Iterator[None]:
    """A transaction that is there as a whole or not at all."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """All reads see one state."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("COMMIT")


def get(db: sqlite3.Connection, name: str, default: Any = None) -> Any:
    """A value of the state."""
    found = db.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
    return default if found is None else json.loads(found[0])


def put(db: sqlite3.Connection, **values: Any) -> None:
    """Set values of the state."""
    db.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", [(k, json.dumps(v)) for k, v in values.items()])


class StoredBlock(Mapping[str, NDArray[Any]]):
    """The columns of a block, each read when it is first asked for."""

    def __init__(self, db: sqlite3.Connection, number: int, size: int, living: int) -> None:
        self.number, self.size, self.living = number, size, living
        self._db = db
        self._read: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._read:
            sql = "SELECT data FROM columns WHERE id = ?"
            (data,) = self._db.execute(sql, (_column(self.number, name),)).fetchone()
            self._read[name] = np.frombuffer(data, TYPES[name])
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(TYPES)

    def __len__(self) -> int:
        return len(TYPES)

    def set(self, name: str, column: NDArray[Any]) -> None:
        """Replace a column."""
        self._read[name] = column
        data = column.astype(TYPES[name]).tobytes()
        self._db.execute("UPDATE columns SET data = ? WHERE id = ?", (data, _column(self.number, name)))

    def kill(self, gone: NDArray[np.bool_]) -> None:
        """Mark rows as gone; a block without others is removed."""
        alive = self["alive"] & ~gone
        self.living = int(np.count_nonzero(alive))
        if self.living:
            self.set("alive", alive)
            self._db.execute("UPDATE blocks SET living = ? WHERE id = ?", (self.living, self.number))
        else:
            self.remove()

    def remove(self) -> None:
        """Remove the block."""
        first = self.number * _WIDTH
        self._db.execute("DELETE FROM columns WHERE id >= ? AND id < ?", (first, first + _WIDTH))
        self._db.execute("DELETE FROM blocks WHERE id = ?", (self.number,))


def blocks(db: sqlite3.Connection, generation: int | None) -> Iterator[StoredBlock]:
    """The blocks of a generation, one after the other; a caller that keeps none has the columns of one in memory."""
    sql = "SELECT id, size, living FROM blocks WHERE generation = ? ORDER BY id"
    for number, size, living in db.execute(sql, (generation,)).fetchall():
        yield StoredBlock(db, number, size, living)


def living(db: sqlite3.Connection, generation: int | None) -> int:
    """The number of rows of a generation."""
    sql = "SELECT COALESCE(SUM(living), 0) FROM blocks WHERE generation = ?"
    return int(db.execute(sql, (generation,)).fetchone()[0])


def query_of(db: sqlite3.Connection, block: int, at: int) -> str:
    """The query of a row; only that is read."""
    width = np.dtype(TYPES["query_at"]).itemsize
    start, end = np.frombuffer(_part(db, block, "query_at", at * width, (at + 2) * width), TYPES["query_at"]).tolist()
    return _part(db, block, "query", start, end - 1).decode()


def _part(db: sqlite3.Connection, block: int, name: str, start: int, end: int) -> bytes:
    with db.blobopen("columns", "data", _column(block, name), readonly=True) as blob:
        blob.seek(start)
        return blob.read(end - start)


def add_block(db: sqlite3.Connection, generation: int, columns: Columns) -> None:
    """Write a block."""
    size, living = len(columns["alive"]), int(np.count_nonzero(columns["alive"]))
    number = db.execute(
        "INSERT INTO blocks (generation, size, living) VALUES (?, ?, ?)", (generation, size, living)
    ).lastrowid
    assert number is not None  # it was an INSERT
    db.executemany("INSERT INTO columns VALUES (?, ?)", [
        (_column(number, name), columns[name].astype(TYPES[name]).tobytes()) for name in TYPES
    ])


def _column(block: int, name: str) -> int:
    return block * _WIDTH + _PLACES[name]


def shown_generation(db: sqlite3.Connection) -> int | None:
    """The generation that pages show: the complete one, or the first while it is being built."""
    complete: int | None = get(db, "shown")
    return get(db, "building") if complete is None else complete


class Numbers:
    """Numbers of roles and of the values that they have; new ones are given as they come."""

    _KEPT: Final = 100_000  # in memory: values come by Zipf's law

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._roles = {name: number for number, name in db.execute("SELECT id, name FROM roles")}
        self._values: dict[tuple[int, str], int] = {}

    def of(self, role: str, value: str) -> tuple[int, int]:
        """The numbers of a role and of its value; for a reason the role is empty."""
        if role not in self._roles:
            self._roles[role] = int(self._db.execute("INSERT INTO roles (name) VALUES (?)", (role,)).lastrowid or 0)
        key = self._roles[role], value
        if key not in self._values:
            if len(self._values) >= self._KEPT:
                self._values.clear()
            self._values[key] = self._value(*key)
        return key[0], self._values[key]

    def _value(self, role: int, value: str) -> int:
        sql = 'SELECT id FROM "values" WHERE role = ? AND value = ?'
        found = self._db.execute(sql, (role, value)).fetchone()
        if found is None:
            sql = 'INSERT INTO "values" (role, value, folded) VALUES (?, ?, ?)'
            return int(self._db.execute(sql, (role, value, fold(value))).lastrowid or 0)
        return int(found[0])


def role_number(db: sqlite3.Connection, role: str) -> int | None:
    """The number of a role; None if no row ever had it."""
    found = db.execute("SELECT id FROM roles WHERE name = ?", (role,)).fetchone()
    return None if found is None else int(found[0])


def value_numbers(db: sqlite3.Connection, role: int, value: str) -> list[int]:
    """The numbers of a value of a role, one for each way to write it with capitals or without."""
    sql = 'SELECT id FROM "values" WHERE role = ? AND folded = ?'
    return [number for (number,) in db.execute(sql, (role, fold(value)))]


def remove_unused(db: sqlite3.Connection) -> None:
    """Remove values that no row has: they may be words of a query that was forgotten."""
    most = db.execute('SELECT COALESCE(MAX(id), 0) FROM "values"').fetchone()[0]
    seen = np.zeros(most + 1, dtype=np.bool_)
    for (number,) in db.execute("SELECT id FROM blocks").fetchall():
        seen[StoredBlock(db, number, 0, 0)["value"]] = True
    db.executemany('DELETE FROM "values" WHERE id = ?', ((int(i) + 1,) for i in np.flatnonzero(~seen[1:])))


def empty_log(db: sqlite3.Connection) -> None:
    """Overwrite what was removed in the write-ahead log too, unless a page is being read: then that comes later."""
    db.execute("PRAGMA busy_timeout = 1000")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    db.execute(f"PRAGMA busy_timeout = {_WAIT_S * 1000:.0f}")


def set_predictions(db: sqlite3.Connection, rows: Iterable[tuple[str, int | None, float | None]]) -> None:
    """Replace the predictions of the student: query, digest of its labels, and up to when it holds."""
    db.execute("DELETE FROM predictions")
    db.executemany("INSERT OR REPLACE INTO predictions VALUES (?, ?, ?)", ((hash_of(q), d, u) for q, d, u in rows))


def predicted(db: sqlite3.Connection, hashes: Sequence[int]) -> dict[int, tuple[int | None, float | None]]:
    """Hash of a query → digest of the student's labels and up to when it holds."""
    out: dict[int, tuple[int | None, float | None]] = {}
    for at in range(0, len(hashes), 500):
        part = hashes[at : at + 500]
        sql = f"SELECT hash, digest, until FROM predictions WHERE hash IN ({','.join('?' * len(part))})"
        out.update((number, (digest, until)) for number, digest, until in db.execute(sql, part))
    return out

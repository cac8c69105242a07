"""The files of a state folder that hold what clients asked: captures, uncertain queries, feedback.

Several processes append to them, and others take rows out: old ones, and those of a query to be forgotten. All of them
hold one lock while they write, so that no line is lost or cut. A process that dies releases it.

A worker has queries in memory that it writes later. `forget` therefore first notes the query's keyed hash with the
time; whoever appends leaves out the rows that it has had since before. A query that is asked again later is kept again.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import functools
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from serving.telemetry.query_key import QueryKey
from task import captures, feedback
from task.files import write_jsonl
from task.text import one_line

DAY_S: Final = 86_400.0
_TAIL = 1 << 20  # bytes; no line is longer
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Row = Mapping[str, Any]


class KeptFiles:
    """These files of one state folder, which exists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.captures = folder / captures.FOLDER
        self.feedback = folder / feedback.FOLDER
        self.uncertain = folder / "uncertain.jsonl"
        self._forgotten = folder / "forgotten.jsonl"
        self._lock = folder / "kept.lock"

    @functools.cached_property
    def key(self) -> QueryKey:
        """Of the hashes; raises like `QueryKey.of`."""
        return QueryKey.of(self.folder)

    def files(self) -> list[Path]:
        """All of them that are there: one a day of captures and of feedback, and that of uncertain queries."""
        daily = [f for folder in (self.captures, self.feedback) for f in sorted(folder.glob("*.jsonl"))]
        return [f for f in (*daily, self.uncertain) if f.exists()]

    # -- writing --------------------------------------------------------------------------------------------------

    def append(self, path: Path, rows: Collection[Row], *, since: float) -> int:
        """Append rows as whole lines, all or none; returns how many were lost because the disk did not take them.

        Rows with the text or the hash of a query that was forgotten after `since` are left out and not lost.

        Args:
            path: One of these files.
            since: When the first of the rows was seen, in seconds since 1970.
        """
        if not rows:
            return 0
        try:
            with self._locked():
                forgotten = {f["keyed_hash"] for f in self._noted() if f["at"] >= since}
                kept = [r for r in rows if not (forgotten and self.hash_of(r) in forgotten)]
                if kept:
                    _append(path, b"".join(one_line(_encode(r)).encode(errors="replace") + b"\n" for r in kept))
        except OSError:
            return len(rows)
        return 0

    def hash_of(self, row: Row) -> str | None:
        """The keyed hash of a row's query; None where neither text nor hash was kept."""
        if row.get("query") is not None:
            return self.key.hash(row["query"])
        found: str | None = row.get("keyed_hash")
        return found

    # -- removing -------------------------------------------------------------------------------------------------

    def note_forgotten(self, query: str, *, now: float) -> None:
        """Let processes that have this query in memory leave it out; from here on no row of before `now` is written."""
        with self._locked():
            for left in self.folder.glob(f".{self._forgotten.name}.*.tmp"):  # of a process that was killed
                left.unlink()
            recent = [f for f in self._noted() if f["at"] >= now - DAY_S]  # no row is in memory for so long
            write_jsonl(self._forgotten, [*recent, {"keyed_hash": self.key.hash(query), "at": now}])

    @staticmethod
    def count(path: Path, drop: Callable[[Row], bool]) -> int:
        """How many rows `remove` would take out of a file."""
        with path.open("rb") as file:
            return sum(dropped for _, dropped in _judged(file, drop))

    def remove(self, path: Path, drop: Callable[[Row], bool]) -> int:
        """Take rows out of a file; returns how many. What cannot be read as a row stays; a file without rows goes.

        The file is replaced by another one: whoever reads it has all of it or what is left, and a kill changes nothing.
        """
        with self._locked():
            if not path.exists():
                return 0
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.unlink(missing_ok=True)  # of a process that was killed
            removed = self.count(path, drop)
            if not removed:
                return 0
            with path.open("rb") as file, temporary.open("wb") as left:
                os.fchmod(left.fileno(), path.stat().st_mode & 0o777)
                left.writelines(line for line, dropped in _judged(file, drop) if not dropped)
                left.flush()
                os.fsync(left.fileno())
                size = left.tell()
            if size:
                temporary.replace(path)
            else:
                path.unlink()
                temporary.unlink()
            return removed

    def expire(self, *, days: int, now: float) -> int:
        """Remove files of days, and rows of uncertain queries, that are older than `days`; returns how many of both."""
        oldest = datetime.datetime.fromtimestamp(now, datetime.UTC).date() - datetime.timedelta(days=days)
        removed = 0
        for folder in (self.captures, self.feedback):
            for file in folder.glob("*.jsonl"):
                day = captures.day_of(file)
                if day is not None and day < oldest:
                    file.unlink(missing_ok=True)
                    removed += 1
        before = now - days * DAY_S
        return removed + self.remove(
            self.uncertain, lambda row: isinstance(row.get("at"), int | float) and row["at"] < before
        )

    # -- the lock -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of all these files; waits for it, so that an event loop asks in a thread."""
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o640)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)  # which releases it

    def _noted(self) -> list[Row]:
        """What was forgotten of late."""
        try:
            lines = self._forgotten.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]


def _append(path: Path, data: bytes) -> None:
    """Append lines to a file, all or none; a line that a dying process left incomplete goes first.

    Raises:
        OSError: The disk does not take them.
    """
    path.parent.mkdir(exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        end = _end_of_lines(handle)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
        except OSError:
            with contextlib.suppress(OSError):  # half a line would spoil the next one
                os.ftruncate(handle, end)
            raise
    finally:
        os.close(handle)


def _end_of_lines(handle: int) -> int:
    """The size of a file, after what follows its last whole line has been cut off."""
    size = os.fstat(handle).st_size
    if not size or os.pread(handle, 1, size - 1) == b"\n":
        return size
    begin = max(0, size - _TAIL)
    end = begin + os.pread(handle, _TAIL, begin).rfind(b"\n") + 1
    os.ftruncate(handle, end)
    return end


def _judged(lines: BinaryIO | Iterable[bytes], drop: Callable[[Row], bool]) -> Iterator[tuple[bytes, bool]]:
    """Each line, and whether it is to go."""
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        yield line, isinstance(row, dict) and drop(row)

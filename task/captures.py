"""What a service keeps of its traffic: a weighted sample of the queries that it answered, in one file a day.

A capture stands for `weight` requests: the sum of the weights of any kind of captures is an unbiased estimate of how
many requests of that kind there were (`serving.telemetry.sampling`).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from task.errors import InputError
from task.fields import Row
from task.table_files import rows_of

FOLDER: Final = "captures"
"""In a service's state folder."""


@dataclass(frozen=True, slots=True)
class Capture:
    """A query that a bundle answered during one window of time.

    Attributes:
        query: Its text; None where only its hash is kept, or nothing.
        keyed_hash: HMAC-SHA-256 of the normalised text; equal queries have equal hashes, and nobody without the key
            can tell which. None where the text is kept, or nothing.
        count: How often it was seen, at least 1.
        weight: How many requests it stands for, at least `count`.
        source: Where the answer came from: `cache`, `kept`, `student` or `teacher`.
        status: `ok`, `uncertain`, `abstained` or `invalid`.
        bundle: Id of the bundle.
        task: Name of its task.
        probability: That the labelling is right; None where it is not known.
        roles: How many labels of each role the answer had.
        at: The end of the window, in seconds since 1970.
    """

    query: str | None
    keyed_hash: str | None
    count: int
    weight: float
    source: str
    status: str
    bundle: str
    task: str
    probability: float | None
    roles: dict[str, int]
    at: float

    def row(self) -> dict[str, Any]:
        """The line of the file; what is None is left out."""
        row = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in row.items() if value is not None}


def file_of(folder: Path, at: float) -> Path:
    """The file of a moment (seconds since 1970): one a day, by UTC."""
    return folder / f"{datetime.datetime.fromtimestamp(at, datetime.UTC):%Y-%m-%d}.jsonl"


def day_of(file: Path) -> datetime.date | None:
    """The day of a file of captures; None for any other file."""
    try:
        return datetime.date.fromisoformat(file.stem) if file.suffix == ".jsonl" else None
    except ValueError:
        return None


def read_captures(folder: Path, *, since: float = 0.0, until: float = float("inf")) -> Iterator[Capture]:
    """The captures of a folder whose windows ended in `[since, until)`, day by day.

    Raises:
        InputError: A line is not what a service writes.
    """
    yield from entries_between(folder, _capture, "a capture", since=since, until=until)


class _Timed(Protocol):
    @property
    def at(self) -> float: ...


T = TypeVar("T", bound=_Timed)


def entries_between(
    folder: Path, parse: Callable[[Row], T], what: str, *, since: float, until: float
) -> Iterator[T]:
    """The entries of a folder with one file a day whose time is in `[since, until)`, day by day.

    Args:
        what: What a line is, for the error.

    Raises:
        InputError: `parse` refuses a line.
    """
    days = {file: day for file in folder.glob("*.jsonl") if (day := day_of(file)) is not None}
    for file in sorted(days, key=lambda f: days[f]):
        midnight = datetime.datetime.combine(days[file], datetime.time(), datetime.UTC).timestamp()
        if not (since < midnight + 86_400 and midnight < until):
            continue
        for line, row in rows_of(file):
            try:
                found = parse(row)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise InputError(
                    f"not {what}", file=file, line=line, found=f"{type(error).__name__}: {error}",
                    expected="a line that limbeck serve wrote", fix="Remove the line",
                ) from error
            if since <= found.at < until:
                yield found


def _capture(row: Row) -> Capture:
    return Capture(
        query=row.get("query"), keyed_hash=row.get("keyed_hash"), count=int(row["count"]),
        weight=float(row["weight"]), source=str(row["source"]), status=str(row["status"]),
        bundle=str(row["bundle"]), task=str(row["task"]), probability=row.get("probability"),
        roles={str(k): int(v) for k, v in row["roles"].items()}, at=float(row["at"]),
    )

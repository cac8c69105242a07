"""What is known of the rounds of a run: when each began, from which student, and how it ended."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from limbeck.artefacts import RunFolder
from limbeck.rounds.folders import ROUNDS, RoundFolder, round_folder, round_folders
from task.errors import InputError
from task.files import read_json, write_json
from task.settings import Strict

Ending = Literal["released", "refused", "not worth it", "given up"]
_LOCK: Final = "lock"
_Content = TypeVar("_Content", bound=Strict)


class Opening(Strict):
    """How a round begins.

    Attributes:
        opened: As ISO 8601, UTC.
        since: Queries are picked among captures from then on, in seconds since 1970: the end of the round that made the
            released student, so that what a refused round had picked is picked again.
        until: And before then.
        student: Id of the bundle that was released when the round began.
        origin: Number of the round that made it; 0 for the run itself.
        pointer: The release pointer.
        state: The state folder of the service.
        asked: Whether the round goes on even if drift calls for none.
        attempt: Id of the last attempt in the ledger then: the round has paid for those after it.
    """

    opened: str
    since: float
    until: float
    student: str
    origin: int
    pointer: Path
    state: Path
    asked: bool
    attempt: int


class Outcome(Strict):
    """How a round ended.

    Attributes:
        why: A sentence.
        bundle: Id of the student that it made; None where it made none.
        finished: As ISO 8601, UTC.
    """

    ending: Ending
    why: str
    bundle: str | None = None
    finished: str


@dataclass(frozen=True, slots=True)
class Round:
    """A round that has begun.

    Attributes:
        number: From 1.
        outcome: None while it is not finished.
    """

    number: int
    folder: RoundFolder
    opening: Opening
    outcome: Outcome | None

    def end(self, ending: Ending, why: str, *, bundle: str | None = None) -> Round:
        """The round, ended."""
        outcome = Outcome(ending=ending, why=why, bundle=bundle, finished=now())
        write_json(self.folder.outcome, outcome.model_dump(mode="json"))
        return Round(self.number, self.folder, self.opening, outcome)


def rounds_of(run: Path) -> list[Round]:
    """All rounds of a run that have begun, in their order.

    Args:
        run: The run folder.

    Raises:
        InputError: A file of them is not what a round writes.
    """
    return [
        Round(
            int(folder.folder.name), folder, _read(Opening, folder.opening),
            _read(Outcome, folder.outcome) if folder.outcome.exists() else None,
        )
        for folder in round_folders(run) if folder.opening.exists()
    ]


def open_round(run: RunFolder, opening: Opening) -> Round:
    """A new round, after all others."""
    numbers = [int(f.folder.name) for f in round_folders(run.folder) if f.opening.exists()]
    folder = round_folder(run.folder, max(numbers, default=0) + 1)
    folder.folder.mkdir(parents=True, exist_ok=True)
    write_json(folder.opening, opening.model_dump(mode="json"))
    return Round(int(folder.folder.name), folder, opening, None)


@contextlib.contextmanager
def alone(run: RunFolder) -> Iterator[None]:
    """Keep other processes from working on rounds of this run.

    Raises:
        InputError: One does already.
    """
    parent = run.folder / ROUNDS
    parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(parent / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            "a round of this task is running", file=parent, fix="Wait for it, or look at it with `limbeck rounds TASK`"
        ) from None
    try:
        yield
    finally:
        lock.release()


def now() -> str:
    """The time as ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _read(kind: type[_Content], file: Path) -> _Content:
    try:
        return kind.model_validate(read_json(file))
    except (ValidationError, ValueError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InputError(
            f"not what a round writes: {what}", file=file,
            fix="Restore it from a backup, or remove the round's folder: its labels stay in the ledger",
        ) from error

"""How far a command is that runs a stage, in a file of the run folder: for the console, which is another process."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from limbeck.progress_display import ProgressDisplay, Shown
from task.files import read_json, write_json
from task.progress import looking
from task.settings import Strict

_EVERY_S: Final = 1.0
_AWAY_S: Final = 60.0  # of a process on another machine: nothing else tells whether it is still there


class Running(Strict):
    """A command that runs a stage.

    Attributes:
        host: Name of the machine.
        pid: Its process there.
        born: When that process began, in the kernel's ticks: another process may get its number later.
        started: When the stage began, in seconds since 1970.
        at: When this was written.
        stage: Name of the stage; `number` of `of`.
        text: What is being done; `done` of `total`, which is None where it is not known.
        note: A short figure, such as money spent.
    """

    host: str
    pid: int
    born: int | None
    started: float
    at: float
    stage: str
    number: int
    of: int
    text: str
    done: int
    total: int | None
    note: str


@contextlib.contextmanager
def progress_on_disk(file: Path, display: ProgressDisplay) -> Iterator[None]:
    """Keep `file` up to date with a display while the block runs, at most once a second; it is gone afterwards.

    A disk that is full costs the progress, not the stage.
    """
    started, written = time.time(), float("-inf")
    before: Shown | None = None

    def write() -> None:
        nonlocal before, written
        now = display.shown
        if now == before and time.time() - written < _AWAY_S / 4:
            return
        before, written = now, time.time()
        with contextlib.suppress(OSError):
            write_json(file, Running(
                host=socket.gethostname(), pid=os.getpid(), born=_born(os.getpid()), started=started, at=written,
                **asdict(now),
            ).model_dump(mode="json"))

    write()
    try:
        with looking(write, every_s=_EVERY_S):
            yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


def running(file: Path) -> Running | None:
    """The command that works in a run folder; None where there is none, or a killed one has left the file."""
    try:
        found = Running.model_validate(read_json(file))
    except (OSError, ValueError, ValidationError):
        return None
    if found.host != socket.gethostname():
        return found if abs(time.time() - found.at) < _AWAY_S else None
    return found if _is_there(found.pid) and _born(found.pid) == found.born else None


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _born(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; None where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])

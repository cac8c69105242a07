"""What has become of a process that somebody else started; one that has ended and nobody has waited for is gone."""

from __future__ import annotations

import contextlib
import os
import time

import psutil


def alive(pid: int) -> bool:
    """Whether it runs."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether it ends in the given time."""
    end = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def parent(pid: int) -> int:
    """The process above it."""
    return int(psutil.Process(pid).ppid())


def ancestors(pid: int) -> list[int]:
    """The processes above it, the nearest first."""
    return [process.pid for process in psutil.Process(pid).parents()]


def descendants(pid: int) -> list[int]:
    """The processes below it."""
    return [process.pid for process in psutil.Process(pid).children(recursive=True)]


def group(leader: int) -> list[int]:
    """The living processes of a group: an engine, its core and its workers."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == leader and alive(pid):
                found.append(pid)
    return found

"""Progress reports of long work, independent of how they are shown."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Protocol


class Progress(Protocol):
    """Receives progress; `limbeck.progress_display` shows it, `quiet` ignores it."""

    def begin(self, what: str, total: int | None = None, done: int = 0) -> None:
        """A piece of work starts; `done` of `total` are done already."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more are done; `note` is a short figure to show, such as money spent."""


class _Quiet:
    def begin(self, what: str, total: int | None = None, done: int = 0) -> None:
        pass

    def advance(self, count: int = 1, note: str = "") -> None:
        pass


quiet: Progress = _Quiet()


@contextlib.contextmanager
def looking(look: Callable[[], None], every_s: float = 0.5) -> Iterator[None]:
    """Call `look` every `every_s` seconds while the block runs and once when it ends, to monitor other processes."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(every_s):
            look()
        look()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=10)

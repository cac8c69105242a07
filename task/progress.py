"""How long work tells how far it is, without knowing who listens."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Protocol


class Progress(Protocol):
    """A listener; `limbeck.console` draws it, tests count it, `quiet` drops it."""

    def begin(self, what: str, total: int | None = None, done: int = 0) -> None:
        """A piece of work starts; `done` of `total` were there already."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more are done; `note` is a short figure worth seeing, such as money spent."""


class _Quiet:
    def begin(self, what: str, total: int | None = None, done: int = 0) -> None:
        pass

    def advance(self, count: int = 1, note: str = "") -> None:
        pass


quiet: Progress = _Quiet()


@contextlib.contextmanager
def looking(look: Callable[[], None], every_s: float = 0.5) -> Iterator[None]:
    """Call `look` every so often while the block runs, and once more when it ends: for work that others do."""
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

"""How long work tells how far it is, without knowing who listens."""

from __future__ import annotations

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

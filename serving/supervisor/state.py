"""What the supervisor wants its workers to serve, and what they say of themselves: files in a folder of its own.

The wanted state is whole and written atomically; a worker that was killed reads it again and is where the others are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from task.files import write_text
from task.serving_settings import Serving
from task.settings import Fraction, Strict


class WantedRoute(Strict):
    """A bundle, its engine and its settings.

    Attributes:
        folder: The supervisor's verified copy, without weights.
        checked: Whether the engine, in the life that it has now, has said what the trained student said.
    """

    folder: Path
    engine: str
    role: Literal["active", "trial", "leaving"]
    checked: bool
    settings: Serving
    canary: Fraction = 0.0
    shadow: Fraction = 0.0


class Wanted(Strict):
    """What every worker is to serve; `settings` are the process's, a route has its own."""

    generation: int
    settings: Serving
    routes: tuple[WantedRoute, ...]


class Said(Strict):
    """What a worker says of itself: `waiting` and `answered` by bundle, at the loop's pace."""

    pid: int
    generation: int
    waiting: dict[str, int]
    answered: dict[str, int]


class StateFolder:
    """The folder that supervisor and workers share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = path / "store.sqlite"
        self.metrics = path / "metrics"
        self.access = path / "access.jsonl"
        self.uncertain = path / "uncertain.jsonl"
        self.wanted = path / "wanted.json"
        self.tally = path / "connections"

    def copy_of(self, bundle_id: str) -> Path:
        """Where the supervisor keeps its copy of a bundle's small files and cache."""
        return self.path / "bundles" / bundle_id

    def want(self, wanted: Wanted) -> None:
        """Tell the workers."""
        write_text(self.wanted, wanted.model_dump_json())

    def read_wanted(self) -> Wanted:
        """What is wanted now."""
        return Wanted.model_validate_json(self.wanted.read_bytes())

    def say(self, number: int, said: Said) -> None:
        """A worker's word, which outlives nothing: no need to sync it."""
        path = self._said(number)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(said.model_dump_json())
        temporary.replace(path)

    def said(self, number: int) -> Said | None:
        """A worker's last word, if it has said any."""
        try:
            return Said.model_validate(json.loads(self._said(number).read_bytes()))
        except (FileNotFoundError, ValueError):
            return None

    def age(self, number: int, now: float) -> float | None:
        """Seconds since a worker's last word."""
        try:
            return now - self._said(number).stat().st_mtime
        except FileNotFoundError:
            return None

    def forget(self, number: int) -> None:
        """A worker's last word is not its successor's."""
        self._said(number).unlink(missing_ok=True)

    def _said(self, number: int) -> Path:
        return self.path / f"worker-{number}.json"

"""What a check looks at, and what it says."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from limbeck.plan import Training, training_estimate
from limbeck.run import Run
from task.errors import InputError
from task.spec import Task

State = Literal["ok", "note", "bad"]
MARKS: dict[State, str] = {"ok": "✓", "note": "!", "bad": "✗"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the list.

    Attributes:
        name: What was looked at, a key of the task file where there is one.
        state: `bad` keeps the task from running, or would fail after money or time was spent; `note` is worth knowing.
        found: What was found.
        fix: What to do about it.
    """

    name: str
    state: State
    found: str
    fix: str = ""

    @property
    def text(self) -> str:
        """The line, without its mark."""
        return f"{self.name}: {self.found}{f'. {self.fix}' if self.fix else ''}"


def ok(name: str, found: str) -> Finding:
    """All is well."""
    return Finding(name, "ok", found)


def note(name: str, found: str, fix: str = "") -> Finding:
    """Worth knowing before a run."""
    return Finding(name, "note", found, fix)


def bad(name: str, found: str, fix: str = "") -> Finding:
    """Keeps the task from running, or would fail late."""
    return Finding(name, "bad", found, fix)


class Subject:
    """The task that is checked, in its run folder.

    Args:
        thorough: Also read datasets of the hub, and create the base without weights, which imports torch.
        call: Also make one call to the LLM's endpoint, which costs nothing.
        labelled: Whether the labels are there and nothing that they depend on has changed, so that no LLM is asked.
        curriculum_rows: Training rows of a finished curriculum of which the same holds.
    """

    def __init__(
        self, run: Run, *, thorough: bool = True, call: bool = False, labelled: bool = False,
        curriculum_rows: int | None = None,
    ) -> None:
        self.run, self.thorough, self.call, self.labelled = run, thorough, call, labelled
        self._curriculum_rows = curriculum_rows

    @property
    def task(self) -> Task:
        """The task."""
        return self.run.task

    @property
    def readable(self) -> bool:
        """Whether the tables may be read now: not before the sample is generated, nor from the hub in passing."""
        data = self.task.data
        if data.sample:
            return (self.run.files.sample / "manifest.json").exists()
        return data.dir is not None or self.thorough

    @functools.cache  # noqa: B019 (a subject lives as long as its checks)
    def table(self, name: str) -> Any:
        """The rows of one of the inputs' tables, or the `InputError` that it gave, and the warnings of reading it."""
        with told() as said:
            try:
                return getattr(self.run.inputs, name), said
            except InputError as error:
                return error, said

    def rows(self, name: str) -> list[Any]:
        """The rows of a table; none where it cannot be read, which another check says."""
        found = self.table(name)[0] if self.readable else []
        return [] if isinstance(found, InputError) else found

    @functools.cached_property
    def training(self) -> Training | None:
        """The estimates of the training; None where the queries cannot be read, or the base has unknown shapes."""
        with told():  # what there is to say of the queries is said where they are read
            try:
                return training_estimate(self.task, self._curriculum_rows)
            except InputError:
                return None


@contextmanager
def told() -> Iterator[list[str]]:
    """Collects the warnings about input instead of printing them."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    said += dict.fromkeys(str(w.message) for w in caught)


def tried(name: str, work: Callable[[], str]) -> Finding:
    """The text that `work` returns, or the `InputError` that it raises."""
    try:
        return ok(name, work())
    except InputError as error:
        return bad(name, str(error))

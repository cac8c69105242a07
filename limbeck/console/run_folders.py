"""The run folders that a console shows, and what it opens of each when it is first asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from limbeck.artefacts import RunFolder
from limbeck.console.following import Following
from limbeck.console.label_index import LabelIndex
from limbeck.console.protection import RefusedError
from limbeck.inputs import Inputs
from task.errors import InputError
from task.files import read_json
from task.labels import Example
from task.spec import Task
from teacher.ledger.ledger import Ledger
from teacher.ledger.reviews import Reviews

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class ShownRun:
    """A run that people look at.

    Attributes:
        task: As the run's last command resolved it.
        gold: The gold rows as their tables have them: those of `test`, then those of `calibration`. Empty where the
            tables are not on this machine.
        remembered: Results that pages need again, by name, with what they were made from.
    """

    name: str
    files: RunFolder
    task: Task
    ledger: Ledger
    reviews: Reviews
    index: LabelIndex
    following: Following
    gold: Mapping[Literal["test", "calibration"], Sequence[Example]]
    remembered: dict[str, tuple[object, Any]] = field(default_factory=dict)

    def remember(self, name: str, made_from: object, make: Callable[[], _Value]) -> _Value:
        """A result, made again when what it is made from has changed."""
        found = self.remembered.get(name)
        if found is None or found[0] != made_from:
            found = self.remembered[name] = (made_from, make())
        value: _Value = found[1]
        return value


class RunFolders:
    """The runs in a folder. Ledgers stay open; a run that comes later is found when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._open: dict[str, ShownRun] = {}

    def names(self) -> list[str]:
        """The names of all run folders."""
        return sorted(
            p.name for p in self.folder.iterdir() if not p.name.startswith(".") and (
                (p / "task.json").exists() or (p / "ledger.sqlite").exists()
            )
        )

    def files(self, name: str) -> RunFolder:
        """The folder of a run. Raises `RefusedError` if there is none of this name."""
        if name not in self.names():
            raise RefusedError(404, f"There is no run named {name!r} in {self.folder}.")
        return RunFolder(self.folder / name)

    def run(self, name: str) -> ShownRun:
        """A run whose labels are shown. Raises `RefusedError` where it has none, `InputError` where they are broken."""
        files = self.files(name)
        with self._lock:
            task = task_of(files)
            if not files.ledger.exists():
                raise RefusedError(404, f"The run {name!r} has no labels yet: run `limbeck label` with its task first.")
            found = self._open.get(name)
            if found is None:
                ledger, reviews = Ledger(files.ledger), Reviews(files.ledger)
                index = LabelIndex(files)
                found = ShownRun(name, files, task, ledger, reviews, index, Following(index), _gold(task, files))
            elif found.task != task:  # the task file has changed since
                found = replace(found, task=task, gold=_gold(task, files), remembered={})
            self._open[name] = found
            return found

    def close(self) -> None:
        """Close all ledgers."""
        for run in self._open.values():
            run.following.stop()
            run.reviews.close()
            run.ledger.close()


def _gold(task: Task, files: RunFolder) -> Mapping[Literal["test", "calibration"], Sequence[Example]]:
    inputs = Inputs(task, files.sample)
    try:
        return {"test": inputs.test, "calibration": inputs.calibration}
    except InputError:
        return {"test": (), "calibration": ()}


def task_of(files: RunFolder) -> Task:
    """The task of a run, as its last command resolved it.

    Raises:
        InputError: The run is of a version that did not keep it and has no bundle, or the file is broken.
    """
    kept = [p for p in (files.task, files.bundle.bundle / "task.json") if p.exists()]
    if not kept:
        raise InputError(
            "the run does not say which task it is of", file=files.task,
            fix="Run any command of the run once more, such as `limbeck label TASK`",
        )
    try:
        return Task.model_validate(read_json(kept[0]))
    except (ValidationError, ValueError) as error:
        raise InputError(
            f"not a task: {error}", file=kept[0], fix="Remove it and run any command of the run, such as `limbeck plan`"
        ) from error

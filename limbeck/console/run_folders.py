"""The run folders that a console shows, and what it opens of each when it is first asked for."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from limbeck.artefacts import RunFolder
from limbeck.console.protection import RefusedError
from task.errors import InputError
from task.files import read_json
from task.spec import Task
from teacher.ledger.ledger import Ledger
from teacher.ledger.reviews import Reviews


@dataclass(frozen=True, slots=True)
class ShownRun:
    """A run that people look at.

    Attributes:
        task: As the run's last command resolved it.
    """

    name: str
    files: RunFolder
    task: Task
    ledger: Ledger
    reviews: Reviews


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
                found = ShownRun(name, files, task, Ledger(files.ledger), Reviews(files.ledger))
            elif found.task != task:  # the task file has changed since
                found = ShownRun(name, files, task, found.ledger, found.reviews)
            self._open[name] = found
            return found

    def close(self) -> None:
        """Close all ledgers."""
        for run in self._open.values():
            run.reviews.close()
            run.ledger.close()


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

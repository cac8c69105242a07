"""A run: one task in one run folder, and what its stages, studies and judgements share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from limbeck.artefacts import RunFolder
from limbeck.inputs import Inputs
from limbeck.progress_display import ProgressDisplay
from task.errors import IncompleteError, InputError
from task.files import read_json
from task.spec import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """What a stage, or a study, could not do.

    Attributes:
        text: What is missing, with the commonest cause.
        fails: Whether the command ends with exit code 1: what is missing may be there when it is run again.
        stops: Whether too little is there for anything that would follow.
    """

    text: str
    fails: bool = True
    stops: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """What stages, studies and judgements share.

    Attributes:
        task: As resolved from its file and the overrides; a variant of a study has another one over the same inputs.
        files: Where everything in the run folder lies.
        inputs: The task's tables, read when first asked for.
        progress: Where stages say how far they are.
        shortfalls: What stages and studies of this command could not do.
    """

    task: Task
    files: RunFolder
    inputs: Inputs
    progress: ProgressDisplay
    shortfalls: list[Shortfall] = field(default_factory=list)

    def note(self, shortfall: Shortfall) -> None:
        """Remember what could not be done, so that the command ends with exit code 1.

        Raises:
            IncompleteError: It is too much for anything that would follow.
        """
        self.shortfalls.append(shortfall)
        if shortfall.stops:
            self.end()

    def end(self) -> None:
        """Raise `IncompleteError`, naming everything, if something that the command was given was not done."""
        texts = list(dict.fromkeys(x.text for x in self.shortfalls if x.fails or x.stops))
        if texts:
            raise IncompleteError("; ".join(texts) + ". Run the same command again: it does only what is missing")

    @classmethod
    def of(cls, task: Task, runs: Path, progress: ProgressDisplay) -> Run:
        """The run of a task in its folder below `runs`."""
        files = RunFolder(runs / task.name)
        return cls(task, files, Inputs(task, files.sample, files.ledger), progress)

    def finished(self, stage: str) -> Path:
        """The folder of a stage that has been run.

        Raises:
            InputError: It has not.
        """
        folder = self.files.folder / stage
        if not (folder / "manifest.json").exists():
            raise InputError(f"stage {stage!r} has not been run", file=folder, fix="Run `limbeck run TASK` first")
        return folder

    def digest(self, stage: str) -> str:
        """SHA-256 over the outputs of a finished stage; what reads them depends on it. Raises like `finished`."""
        return str(read_json(self.finished(stage) / "manifest.json")["digest"])

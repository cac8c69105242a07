"""A run: one task in one run folder, and what its stages, studies and judgements share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from limbeck.artefacts import RunFolder
from limbeck.inputs import Inputs
from limbeck.progress_display import ProgressDisplay
from task.errors import InputError
from task.files import read_json
from task.spec import Task


@dataclass(frozen=True, slots=True)
class Run:
    """What stages, studies and judgements share.

    Attributes:
        task: As resolved from its file and the overrides; a variant of a study has another one over the same inputs.
        files: Where everything in the run folder lies.
        inputs: The task's tables, read when first asked for.
        progress: Where stages say how far they are.
    """

    task: Task
    files: RunFolder
    inputs: Inputs
    progress: ProgressDisplay

    @classmethod
    def of(cls, task: Task, runs: Path, progress: ProgressDisplay) -> Run:
        """The run of a task in its folder below `runs`."""
        files = RunFolder(runs / task.name)
        return cls(task, files, Inputs(task, files.sample), progress)

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

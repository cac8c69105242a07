"""The tables of a round: those of the task, with all queries that have been labelled so far as the log."""

from __future__ import annotations

import functools
from pathlib import Path

from limbeck.inputs import Inputs
from limbeck.rounds.folders import RoundLabelFolder
from task.labels import Example
from task.readers import read_queries
from task.spec import Task


class RoundInputs(Inputs):
    """As `Inputs`; `queries` are those that the student of before, or a draw of its round, has labels of."""

    def __init__(self, task: Task, sample: Path, before: RoundLabelFolder, ledger: Path | None = None) -> None:
        """Read nothing yet.

        Args:
            before: The label stage of the round, or of the run, that made the released student.
        """
        super().__init__(task, sample, ledger)
        self.before = before

    @property
    def labelled(self) -> list[Path]:
        """The tables of labels that the round goes on with."""
        return [p for p in (self.before.labels, self.before.random) if p.exists()]

    def source(self, name: str) -> Path | str | None:
        """See `Inputs.source`."""
        return self.before.labels if name == "queries" else super().source(name)

    @functools.cached_property
    def queries(self) -> list[Example]:
        """See `Inputs.queries`."""
        return [row for table in self.labelled for row in read_queries(table)]

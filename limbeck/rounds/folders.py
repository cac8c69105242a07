"""Where the rounds of a run lie, and what each of them writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from limbeck.artefacts import Entry, Folder, LabelFolder, RunFolder

ROUNDS: Final = "rounds"
"""In the run folder."""


class RoundLabelFolder(LabelFolder):
    """What the label stage of a round writes beside what `limbeck label` writes."""

    random = Entry("random.jsonl")  # rows of the draws by traffic: they judge this round, and the next learns from them


class _OfTheRun(Entry):
    """What rounds share with the run that they are of."""

    def __get__(self, holder: Folder, _owner: type[Folder]) -> Path:
        assert isinstance(holder, RoundFolder)
        return holder.run / self._name


@dataclass(frozen=True)
class RoundFolder(RunFolder):
    """The folder of one round: laid out as a run's, with ledger, index and progress of the run.

    Attributes:
        run: The folder of the run.
    """

    run: Path

    progress = _OfTheRun("progress.json")
    ledger = _OfTheRun("ledger.sqlite")
    index = _OfTheRun("index")
    opening = Entry("round.json")
    outcome = Entry("outcome.json")
    verdict = Entry("drift/drift.json")
    picks = Entry("picks/picks.jsonl")
    judgement = Entry("gate/gate.json")

    @property
    def label(self) -> RoundLabelFolder:
        """The folder of the label stage."""
        return RoundLabelFolder(self.folder / "label")


def rounds_page(run: Path) -> Path:
    """The page of all rounds of a run."""
    return run / ROUNDS / "rounds.html"


def round_folder(run: Path, number: int) -> RoundFolder:
    """The folder of a round.

    Args:
        number: From 1.
    """
    return RoundFolder(run / ROUNDS / f"{number:04d}", run)


def round_folders(run: Path) -> Iterator[RoundFolder]:
    """The folders of all rounds of a run, in their order."""
    parent = run / ROUNDS
    for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
        if folder.is_dir() and folder.name.isdecimal():
            yield RoundFolder(folder, run)

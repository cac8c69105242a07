"""The queries that the released student was made from: those of the run, and of the rounds since."""

from __future__ import annotations

from limbeck.rounds.folders import RoundFolder
from limbeck.rounds.history import rounds_of
from limbeck.run import Run
from task.labels import Example
from task.readers import read_queries


def labelled_queries(run: Run) -> list[Example]:
    """The query log, or imported labels, and what the last round that was released had labels of.

    Of a round itself, its log has all of that already (`RoundInputs`).
    """
    log = run.inputs.queries or run.inputs.labels
    if isinstance(run.files, RoundFolder):
        return log
    released = [r for r in rounds_of(run.files.folder) if r.outcome is not None and r.outcome.ending == "released"]
    if not released:
        return log
    label = released[-1].folder.label
    tables = [t for t in (label.labels, label.random) if t.exists()]
    return [*log, *(row for table in tables for row in read_queries(table))]

"""Arguments and options that several commands share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from limbeck.run import Run

TaskFile = Annotated[Path, typer.Argument(metavar="TASK", help="The task file, such as configs/market.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a value of the task file; repeatable")
]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where run folders are kept")]
RUNS = Path("runs")


@contextlib.contextmanager
def opened(task: Path, overrides: list[str] | None, runs: Path) -> Iterator[Run]:
    """The run of a task with a progress display; no stage is run."""
    from limbeck.progress_display import ProgressDisplay
    from limbeck.run import Run
    from task.load import load_task

    with ProgressDisplay() as progress:
        yield Run.of(load_task(task, overrides or ()).task, runs, progress)

"""What the command line's modules share: arguments that mean the same everywhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from limbeck.pipeline import Pipeline

TaskFile = Annotated[Path, typer.Argument(metavar="TASK", help="The task file, such as configs/market.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a value of the task file; repeatable")
]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where run folders are kept")]
RUNS = Path("runs")


@contextlib.contextmanager
def opened(task: Path, overrides: list[str] | None, runs: Path) -> Iterator[Pipeline]:
    """The pipeline of a task, with nothing run."""
    from limbeck.pipeline import Pipeline
    from limbeck.progress_display import Console
    from task.load import load_task

    with Console() as console:
        yield Pipeline(load_task(task, overrides or ()), runs, console)

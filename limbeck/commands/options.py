"""Arguments and options that several commands share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from limbeck.run import Run

TaskFile = Annotated[Path, typer.Argument(metavar="TASK", help="The task file, such as configs/market.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a value of the task file; repeatable")
]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where run folders are kept")]
RUNS = Path("runs")
LISTED = "; repeatable, or joined by commas"  # of an option whose values `listed` reads

Value = TypeVar("Value")


def listed(option: str, given: Sequence[str] | None, kind: Callable[[str], Value], wanted: str) -> list[Value]:
    """The values of a repeatable option, each of which may be several, joined by commas.

    Args:
        kind: What makes a value of its text; raises `ValueError` for one that is none.
        wanted: What a value is, for the message.

    Raises:
        InputError: A value is none, or empty.
    """
    from task.errors import InputError

    out = []
    for text in (part.strip() for whole in given or () for part in whole.split(",")):
        try:
            if not text:
                raise ValueError(text)
            out.append(kind(text))
        except ValueError as error:
            raise InputError(
                "not such a value", field=option, found=text, expected=f"{wanted}{LISTED}"
            ) from error
    return out


@contextlib.contextmanager
def opened(task: Path, overrides: list[str] | None, runs: Path) -> Iterator[Run]:
    """The run of a task with a progress display; no stage is run."""
    from limbeck.progress_display import ProgressDisplay
    from limbeck.run import Run
    from task.load import load_task

    with ProgressDisplay() as progress:
        yield Run.of(load_task(task, overrides or ()).task, runs, progress)

"""Commands of rounds: whether another one is worth its money."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer

from limbeck.commands.options import RUNS, Overrides, Runs, TaskFile, opened

app = typer.Typer()
_DATES = ["%Y-%m-%d"]


@app.command(rich_help_panel="Operations")
def drift(
    task: TaskFile,
    since: Annotated[datetime.datetime, typer.Option(formats=_DATES, help="First day of the current period, UTC")],
    until: Annotated[
        datetime.datetime | None, typer.Option(formats=_DATES, help="The day after its last; default: all captures")
    ] = None,
    state: Annotated[Path, typer.Option(help="State folder of `limbeck serve`")] = Path("limbeck-serve"),
    out: Annotated[Path | None, typer.Option("--json", help="Write all figures here")] = None,
    fail: Annotated[bool, typer.Option("--fail", help="Exit code 1 if anything has moved, for schedulers")] = False,
    set_: Overrides = None,
    runs: Runs = RUNS,
) -> None:
    """Say whether the traffic has moved since the first week of the served bundle, and whether a round is worth it.

    Compare whole weeks: days of the week differ. Exit code 3: a period has too few captures.
    """
    from eval.drift_verdict import table
    from limbeck.pipeline import prepare_inputs
    from limbeck.rounds.drift import drift as measure
    from task.files import write_json

    begin = since.replace(tzinfo=datetime.UTC).timestamp()
    end = float("inf") if until is None else until.replace(tzinfo=datetime.UTC).timestamp()
    with opened(task, set_, runs) as run:
        prepare_inputs(run)
        found = measure(run, state, since=begin, until=end)
    if out:
        write_json(out, found)
    print(table(found))
    if fail and found["drifted"]:
        raise typer.Exit(1)

"""Which run folders and tables `limbeck forget` is to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from limbeck.operations.forget import is_run
from task.errors import InputError

_TABLES: Final = ("queries", "labels", "conversions", "outliers", "calibration", "test")


def targets_of(
    given: Sequence[Path], runs: Sequence[Path], *, states: Sequence[Path], default: Path
) -> tuple[list[Path], list[Path]]:
    """The run folders, and the tables of their tasks.

    Args:
        given: Task files, whose runs are looked for in `runs`, and run folders.
        runs: Where run folders are kept; without `given`, all in there.
        default: Where those of a task are kept if `runs` does not say.

    Raises:
        InputError: There is nothing to look at, or a run that is named is not there.
    """
    if not given and not runs and not states:
        raise InputError(
            "says not where to forget it", field="limbeck forget", expected="TASK, a run folder, --runs or --state"
        )
    if not given:
        for folder in runs:
            if not folder.is_dir():
                raise InputError("no such folder", file=folder, field="--runs")
        return [f for folder in runs for f in sorted(folder.iterdir()) if f.is_dir() and is_run(f)], []
    folders: list[Path] = []
    tables: list[Path] = []
    for target in given:
        if target.is_dir():
            folders.append(target)
            continue
        found, read = _of_task(target, runs or (default,))
        folders += found
        tables += read
    return folders, tables


def _of_task(file: Path, runs: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    from limbeck.inputs import Inputs
    from task.load import load_task

    task = load_task(file).task
    found = [folder / task.name for folder in runs if is_run(folder / task.name)]
    if not found:
        raise InputError(
            "the task has no run folder", file=file, expected=", ".join(str(folder / task.name) for folder in runs),
            fix="Give --runs, where run folders are kept",
        )
    inputs = Inputs(task, found[0] / "sample")
    sources = [inputs.source(name) for name in _TABLES]
    return found, list(dict.fromkeys(s for s in sources if isinstance(s, Path) and s.exists()))

"""The stages in their order, and running them up to one of them."""

from __future__ import annotations

from typing import Final

from limbeck.run import Run
from limbeck.stage import Result, execute
from limbeck.stages import bundle, cross_fit, curriculum, evaluate, label, merge, sample, train
from task.model_store import fetch_ahead

_MAKING: Final = (
    sample.STAGE, label.STAGE, curriculum.STAGE, cross_fit.STAGE, train.STAGE, merge.STAGE, bundle.STAGE,
)
STAGES: Final = (*_MAKING, evaluate.stage(_MAKING))


def run_up_to(run: Run, last: str) -> Result:
    """Run every stage of the task up to and including `last`; those that are done and unchanged are skipped.

    Raises:
        IncompleteError: A stage did so little that the next one would make no sense. If it did most, the run goes on,
            and `Run.end` raises the error at the end.
    """
    names = [s.name for s in STAGES]
    stages = [s for s in STAGES[: names.index(last) + 1] if s.wanted(run.task)]
    run.files.folder.mkdir(parents=True, exist_ok=True)
    if train.STAGE in stages:
        fetch_ahead(run.task.student.base)
    for number, stage in enumerate(stages, 1):
        run.progress.stage(stage.name, number, len(stages))
        result = execute(stage, run)
        state = "unchanged, not run again" if result.skipped else f"done in {result.manifest['wall_s']:,.0f} s"
        short = result.shortfall
        headline = stage.headline(result.figures) + (f" · not finished: {short.text}" if short else "")
        run.progress.finished(f"{state} · {headline}")
        if short is not None:
            run.note(short)
    return result


def prepare_inputs(run: Run) -> None:
    """Generate the task's sample data, if it has any, without output on the screen."""
    if sample.STAGE.wanted(run.task):
        execute(sample.STAGE, run)

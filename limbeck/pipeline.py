"""The stages in their order, running them up to one of them, and which of them a run would do again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from limbeck.labelling_plan import Standing
from limbeck.run import Run
from limbeck.stage import Figures, Result, Stage, execute, execute_shown, ingredients
from limbeck.stages import bundle, cross_fit, curriculum, evaluate, label, merge, sample, train
from limbeck.staleness import reasons
from task.errors import InputError
from task.files import read_json, write_json
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
    write_json(run.files.task, run.task.model_dump(mode="json"))
    names = [s.name for s in STAGES]
    stages = [s for s in STAGES[: names.index(last) + 1] if s.wanted(run.task)]
    if train.STAGE in stages:
        fetch_ahead(run.task.student.base)
    for number, stage in enumerate(stages, 1):
        result = execute_shown(stage, run, number=number, of=len(stages))
    return result


@dataclass(frozen=True, slots=True)
class StageState:
    """What a run would do with a stage now.

    Attributes:
        state: `waits`: nothing that it depends on has changed yet, but a stage before it will be run, and the result
            of that one decides.
        why: A phrase for each reason; none for `unchanged`, `not run` and `waits`.
    """

    name: str
    state: Literal["unchanged", "stale", "not finished", "not run", "waits"]
    why: tuple[str, ...] = ()


def states(run: Run) -> list[StageState]:
    """The state of every stage of the task; reads only."""
    out: list[StageState] = []
    waits = False
    for stage in STAGES:
        if stage.wanted(run.task):
            out.append(_state(stage, run, waits=waits))
            waits = waits or out[-1].state != "unchanged"
    return out


def standing(run: Run, found: Sequence[StageState]) -> Standing:
    """What of the run is finished and would not be run again, among its stages' states."""
    state = {s.name: s.state for s in found}
    labelled = state.get(label.STAGE.name) in ("unchanged", "not finished")
    makers = (cross_fit.STAGE.name, curriculum.STAGE.name)
    learned = next((name for name in makers if state.get(name) == "unchanged"), None)
    return Standing(
        label=_figures(run, label.STAGE.name) if labelled else None,
        rows=None if learned is None else int(_figures(run, learned)["train"]),
    )


def _figures(run: Run, stage: str) -> Figures:
    figures: Figures = read_json(run.finished(stage) / "manifest.json")["figures"]
    return figures


def _state(stage: Stage, run: Run, *, waits: bool) -> StageState:
    manifest = run.files.folder / stage.name / "manifest.json"
    if not manifest.exists():
        return StageState(stage.name, "not run")
    found = read_json(manifest)
    try:
        why = reasons(found, ingredients(stage, run))
        left = None if why else stage.missing(run, found["figures"])
    except InputError as error:
        return StageState(stage.name, "stale", (str(error),))
    if why:
        return StageState(stage.name, "stale", tuple(why))
    if left is not None:
        return StageState(stage.name, "not finished", (left.text,))
    return StageState(stage.name, "waits" if waits else "unchanged")


def prepare_inputs(run: Run) -> None:
    """Generate the task's sample data, if it has any, without output on the screen."""
    if sample.STAGE.wanted(run.task):
        execute(sample.STAGE, run)

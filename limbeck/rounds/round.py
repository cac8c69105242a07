"""`limbeck round`: from what a service captured to a new student that takes over, or does not.

drift → picks → labels → curriculum → training → merged model → bundle → gate → release, canary and watch. Each step is
a stage of the round's own folder, laid out as a run's; ledger and index are the run's. What was done when a round was
killed stays done: the same command goes on.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from limbeck.artefacts import RunFolder
from limbeck.rounds import label as round_label
from limbeck.rounds.captured import drift_stage, picks_stage
from limbeck.rounds.folders import RoundLabelFolder, round_folder
from limbeck.rounds.history import Opening, Round, alone, now, open_round, rounds_of
from limbeck.rounds.inputs import RoundInputs
from limbeck.rounds.judge import gate_stage
from limbeck.rounds.picks import require_captures
from limbeck.rounds.release import release_and_watch
from limbeck.rounds.start import with_start
from limbeck.run import Run
from limbeck.stage import Figures, Stage, execute_shown
from limbeck.stages import bundle, cross_fit, curriculum, merge, sample, train
from task.errors import GateError, InputError
from task.files import read_json


def run_round(
    run: Run, *, pointer: Path, state: Path, if_worth: bool = False, clock: Callable[[], float] = time.time,
    picks: Callable[[Opening, int], Stage] = picks_stage,
) -> Round:
    """Begin a round, or go on with one that was stopped, until it has ended.

    Args:
        run: The run whose student was released first; its rounds lie in its folder.
        pointer: The release pointer, which a service may follow.
        state: The state folder of the service.
        if_worth: End it after drift unless that says that a round is worth its money. Of no effect on one that has
            begun without it.
        clock: Seconds since 1970.
        picks: The stage that picks, of how the round began and its number.

    Raises:
        InputError: Something that a round needs is not there, or a round of this run is running.
        IncompleteError: Most queries have no answer.
    """
    check(run, pointer)
    with alone(run.files):
        before = rounds_of(run.files.folder)
        current = before[-1] if before and before[-1].outcome is None else None
        if current is None:
            require_captures(run, state)  # where there are none at all, another folder was meant
            current = _opened(run, before, pointer=pointer, state=state, asked=not if_worth, at=clock())
            _remove_models(before)
        return _gone_through(run, current, picks)


def give_up(run: Run) -> Round:
    """End the round that was stopped, and leave everything as it is.

    Raises:
        InputError: There is none, or it is running.
    """
    with alone(run.files):
        found = rounds_of(run.files.folder)
        if not found or found[-1].outcome is not None:
            raise InputError("there is no round that was stopped", file=run.files.folder, field="--give-up")
        return found[-1].end("given up", "given up by an operator")


def check(run: Run, pointer: Path) -> None:
    """Raise `InputError` for what would fail after minutes or after money was spent."""
    from serving.release.pointer import read_pointer
    from teacher.backends.backend import backend_of

    task = run.task
    read_pointer(pointer)
    if not backend_of(task).answers_any_query:
        raise InputError(
            "this teacher has labels of its own queries only, and a round labels new ones", field="teacher.backend",
            found=task.teacher.backend, expected="catalog, openai, openai-batch or vllm",
        )
    if run.inputs.source("test") is None and not run.inputs.test:
        raise InputError(
            "a round judges its student on gold rows", field="data.gold.test", expected="a file with gold labels"
        )
    if task.student.form != "read" and task.gates.engine_label_agreement is not None:
        raise InputError(
            "a round cannot compare engine and merged student in this answer form",
            field="gates.engine_label_agreement", found=f"student.form {task.student.form}",
            fix="Leave the rule out in rounds: --set gates.engine_label_agreement=null",
        )


def _opened(
    run: Run, before: Sequence[Round], *, pointer: Path, state: Path, asked: bool, at: float
) -> Round:
    """A new round, from the student that is released."""
    from serving.release.pointer import read_pointer
    from teacher.ledger.ledger import Ledger
    from teacher.ledger.missing_answers import last_attempt

    student = read_pointer(pointer).current.id
    origin = _origin(run.files, before, student, pointer)
    since = next((r.opening.until for r in before if r.number == origin), 0.0)
    with Ledger(run.files.ledger) as ledger:
        attempt = last_attempt(ledger)
    return open_round(run.files, Opening(
        opened=now(), since=since, until=at, student=student, origin=origin, pointer=pointer.resolve(),
        state=state.resolve(), asked=asked, attempt=attempt,
    ))


def _origin(run: RunFolder, before: Sequence[Round], student: str, pointer: Path) -> int:
    """The number of the round that made the released student; 0 for the run itself."""
    for one in reversed(before):
        if one.outcome is not None and one.outcome.bundle == student:
            return one.number
    if run.bundle.manifest.exists() and read_json(run.bundle.manifest)["id"] == student:
        return 0
    raise InputError(
        "the released student is neither this run's nor one of its rounds'", file=pointer, found=student,
        expected=f"the bundle in {run.bundle.bundle}, or one that a round released",
        fix="Release one of these, or give --runs, where run folders are kept",
    )


def _gone_through(run: Run, current: Round, picks: Callable[[Opening, int], Stage]) -> Round:
    """All steps of a round; those that are done are skipped."""
    opening = current.opening
    own = _run_of(run, current)
    stages = [s for s in (
        sample.STAGE, drift_stage(opening), picks(opening, current.number), round_label.stage(opening.attempt),
        curriculum.STAGE, cross_fit.STAGE, train.STAGE, merge.STAGE, bundle.STAGE, gate_stage(opening),
    ) if s.wanted(own.task)]
    of = len(stages) + 1  # with the release
    figures: dict[str, Figures] = {}
    for number, stage in enumerate(stages, 1):
        if stage is train.STAGE:
            own = with_start(own, origin_of(run.files, opening.origin))
        try:
            figures[stage.name] = execute_shown(stage, own, number=number, of=of).figures
        except GateError as error:  # of the merge: the same rows would give the same model again
            return current.end("refused", f"{stage.name}: {error}")
        if stage.name == "drift" and not opening.asked and figures["drift"]["round"] is not True:
            return current.end("not worth it", str(figures["drift"]["sentence"]))
        if stage.name == "picks" and not figures["picks"]["new"]:
            return current.end("not worth it", "no query captured since the last round is without a label")
    made_id = str(read_json(own.files.bundle.manifest)["id"])
    if not figures["gate"]["passed"]:
        return current.end("refused", "gate: " + "; ".join(figures["gate"]["failed"]), bundle=made_id)
    run.progress.stage("release", of, of)
    found = release_and_watch(
        own, own.files.bundle.bundle, opening.pointer, state=opening.state, before=opening.student,
        progress=run.progress,
    )
    run.progress.finished(found.why)
    return current.end("released" if found.served else "refused", found.why, bundle=made_id)


def origin_of(run: RunFolder, number: int) -> RunFolder:
    """The folder of the run, or of the round, that made a student."""
    return round_folder(run.folder, number) if number else run


def _run_of(run: Run, current: Round) -> Run:
    """The round as a run: the task with the settings of rounds, its own folder, and the labels of before as the log."""
    task = run.task.model_copy(update={"student": run.task.rounds.student_of(run.task.student)})
    before = RoundLabelFolder(origin_of(run.files, current.opening.origin).label.folder)
    if not before.labels.exists():
        raise InputError(
            "the labels that the released student was made from are not there", file=before.labels,
            fix="Run `limbeck label TASK`",
        )
    files = current.folder
    return Run(task, files, RoundInputs(task, files.sample, before, files.ledger), run.progress, run.shortfalls)


def _remove_models(before: Sequence[Round]) -> None:
    """Remove what earlier rounds need no more: their models; a released bundle is kept beside its pointer."""
    for one in before:
        for folder in (one.folder.merge.folder, one.folder.bundle.folder):
            shutil.rmtree(folder, ignore_errors=True)

"""What the training of a round begins from: the adapter of the released student, or the base."""

from __future__ import annotations

import json
from typing import Any, Final

from limbeck.artefacts import RunFolder
from limbeck.run import Run
from task.errors import warn
from task.files import read_json

_COUNTED: Final = {"transitions"}  # of the examples: they say how likely symbols are, not which these are


def with_start(run: Run, origin: RunFolder) -> Run:
    """The round with what its training begins from.

    An adapter knows the symbols of its own codec. Where the task has others now, as after a value of a closed role was
    added, the training begins from the base, and says so.

    Args:
        origin: The folder of the run, or of the round, that made the released student.
    """
    if run.task.rounds.start == "scratch":
        return run
    adapter = origin.train.adapter
    if not (adapter / "adapter_config.json").exists():
        warn(
            "the adapter of the released student is not there: the training begins from the base", file=adapter,
            field="rounds.start",
        )
        return run
    before = read_json(origin.train.codec)
    segmentation = run.task.student.segmentation
    student = run.task.student.model_copy(update={
        "init_adapter": str(adapter.resolve()),
        "segmentation": before["segmentation"] if segmentation == "auto" else segmentation,
    })
    changed = _changed(_codec(_with_student(run, student)), before)
    if changed:
        warn(
            f"the training begins from the base: the released student answers with other symbols ({changed})",
            field="rounds.start", fix="This is so where roles or their values have changed since",
        )
        return run
    return _with_student(run, student)


def _with_student(run: Run, student: Any) -> Run:
    task = run.task.model_copy(update={"student": student})
    return Run(task, run.files, run.inputs, run.progress, run.shortfalls)


def _codec(run: Run) -> dict[str, Any]:
    """The codec of the round, JSON-ready."""
    from task.codec import Codec
    from task.model_store import fetch
    from task.tokenizer import load_tokenizer
    from teacher.curriculum.rows import read

    rows = [r.example for r in read(run.files.curriculum, "train")]
    return Codec.compile(run.task, rows, load_tokenizer(fetch(run.task.student.base))).to_json()


def _changed(now: dict[str, Any], before: dict[str, Any]) -> str:
    """The parts in which two codecs differ, as text; empty for none."""
    now = json.loads(json.dumps(now))  # tuples are lists in a file
    return ", ".join(sorted(
        k for k in (now.keys() | before.keys()) - _COUNTED if now.get(k) != before.get(k)
    ))

"""Calibration of the merged student, and its reference answers, computed in transformers on held-out gold rows.

The reference answers go into the bundle, so that an engine can be checked against them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from task.calibration import Calibrator
from task.labels import Example

if TYPE_CHECKING:
    from limbeck.run import Run
    from task.codec import Codec
    from task.forms import Decoded

# Increase this when the same answers give another calibrator or other reference answers.
VERSION = 1
_FOLDS = 5


def calibrate_student(run: Run, model: Path, codec: Codec) -> tuple[Calibrator, list[Example]]:
    """Fit a calibrator on the calibration rows, or on the dev rows where a task has none.

    The forms `write` and `json` are decoded by the engine only and have no probability: their calibrator is empty, and
    there are no reference answers.

    Returns:
        The calibrator of raw probabilities; the queries with the student's labels.
    """
    from eval.matching import exact
    from task.normalize import normaliser
    from teacher.curriculum.rows import read

    rows: Sequence[Example] = run.inputs.teacher.calibration
    source = "calibration"
    if not rows:
        rows, source = [r.example for r in read(run.files.curriculum, "dev")], "dev"
    if codec.answer_form.output != "scores" or not rows:
        return Calibrator(), []
    normalise = normaliser(run.task.normaliser)
    found = _predicted(run, model, codec, rows)
    right = [exact(x.labels, row.labels, normalise) for row, x in zip(rows, found, strict=True)]
    raw_probabilities = [float(x.raw_probability or 0.0) for x in found]
    answers = [Example(row.query, x.labels) for row, x in zip(rows, found, strict=True)]
    return Calibrator.fit(raw_probabilities, right, _report(raw_probabilities, right, source)), answers


def _predicted(run: Run, model: Path, codec: Codec, rows: Sequence[Example]) -> list[Decoded]:
    from student.inference import all_scores
    from student.model import accelerator, dtype_on, load_base
    from task.tokenizer import load_tokenizer

    run.progress.begin("calibrating the student", len(rows))
    device = accelerator()
    scores = all_scores(
        load_base(model, dtype_on(device, run.task.serving.dtype)).to(device), codec, load_tokenizer(model),
        [r.query for r in rows], device=device, progress=run.progress.advance,
    )
    return [codec.decode(r.query, s, run.task) for r, s in zip(rows, scores, strict=True)]


def _report(raw_probabilities: Sequence[float], right: Sequence[bool], source: str) -> dict[str, Any]:
    """Calibration figures of cross-validated probabilities: no row is judged by a calibrator that it was fitted on."""
    from eval.calibration import assess

    found: list[float] = [0.0] * len(right)
    for k in range(_FOLDS):
        rest = [i for i in range(len(right)) if i % _FOLDS != k]
        fitted = Calibrator.fit([raw_probabilities[i] for i in rest], [right[i] for i in rest], {})
        for i in range(k, len(right), _FOLDS):
            found[i] = fitted.probability(raw_probabilities[i])
    report: dict[str, Any] = {"rows": len(right), "source": source, "right": sum(right)}
    if len(set(right)) == 2:
        report |= assess(found, right, range(len(right)))
    return report

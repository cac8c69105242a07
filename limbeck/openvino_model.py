"""The student exported for OpenVINO, which serves bundles on machines without a GPU."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from engine.process import has_gpu
from limbeck.run import Run
from task.codec import Codec
from task.errors import InputError, warn
from task.forms import is_token_classifier
from task.labels import Example
from task.serving_settings import Serving
from task.spec import Task

VERSION: Final = 3
"""Raise it when the exported model of the same student, or the choice of its bits, becomes another one."""

_CALIBRATION_ROWS: Final = 256
_LEAST_AGREEMENT: Final = 0.99
"""With `serving.quantization: auto`, 8 bits are used where they keep this share of the trained student's labels of the
reference queries; on these, chosen to be hard, the same student in 16 bits keeps 99.7 %."""
_LEAST_LABELS: Final = 300
"""Of so many labels to compare: if all of 300 are kept, the share is at least 99 % with 95 % confidence. With fewer, as
where gold has some dozen rows, 16 bits are used: a student with 18 reference queries, all of whose labels 8 bits kept,
kept 93 % on others."""
_BATCH: Final = 16


def is_wanted(task: Task) -> bool:
    """Whether a bundle gets an exported model: where it is asked for, or can be used and there is no GPU."""
    settings = task.serving
    servable = (
        is_token_classifier(task.student.form) and settings.weights == "merged" and settings.reader == "classifier"
    )
    return settings.engine == "openvino" or (settings.engine == "auto" and servable and not has_gpu())


def make(
    run: Run, codec: Codec, *, classifier: Path, out: Path, reference: Sequence[Example]
) -> dict[str, Any] | None:
    """Export the merged student, in 8 bits if the task allows that and the labels stay the same.

    Args:
        reference: Queries with the labels that the trained student gave.

    Returns:
        `bits`, `agreement` with the reference (None where it has no label), `compared`, the number of its labels, and
        `matrices` by kind of quantisation; None where the architecture cannot be exported and `serving.engine` does not
        insist.

    Raises:
        InputError: It cannot be exported, and `serving.engine` insists.
    """
    from student.merging.openvino_export import ExportError, trace, write

    settings = run.task.serving
    compared = sum(len(x.labels) for x in reference)
    eight_bits = settings.quantization == "int8" or (settings.quantization == "auto" and compared >= _LEAST_LABELS)
    try:
        run.progress.begin("exporting the student for OpenVINO")
        model = trace(classifier)
        while True:
            run.progress.begin(f"writing the exported student in {8 if eight_bits else 16} bits")
            shutil.rmtree(out, ignore_errors=True)
            figures = write(model, out, prompts=_prompts(run, codec, classifier) if eight_bits else None)
            agreement = _agreement(run.task, codec, classifier, out, reference) if compared else None
            kept = agreement is None or agreement >= _LEAST_AGREEMENT
            if kept or not eight_bits or settings.quantization == "int8":
                _say_if_lossy(run.task, agreement, compared, eight_bits=eight_bits)
                return {"bits": 8 if eight_bits else 16, "agreement": agreement, "compared": compared, **figures}
            eight_bits = False
    except ExportError as error:
        shutil.rmtree(out, ignore_errors=True)
        if settings.engine == "openvino":
            raise InputError(
                f"the student cannot be exported for OpenVINO: {error}", field="serving.engine", found="openvino",
                expected="vllm, or another base", fix="Set serving.engine: vllm",
            ) from error
        run.progress.begin(f"no export for OpenVINO, vLLM will serve the student: {error}")
        return None


def how_to_agree(settings: Serving, *, eight_bits: bool | None = None) -> str:
    """What to change in a task file so that its engine keeps more of the merged student's labels.

    Args:
        eight_bits: Whether the served model has matrices in 8 bits; None where that is not known.
    """
    choices = ["serving.quantization: none"] if settings.quantization != "none" and eight_bits is not False else []
    choices += ["serving.dtype: float32 (slower)"] if settings.dtype != "float32" and not eight_bits else []
    choices += ["serving.engine: vllm"] if settings.engine != "vllm" else []
    return f"Set {' or '.join(choices)}" if choices else "Lower gates.engine_label_agreement if you accept the loss"


def _say_if_lossy(task: Task, agreement: float | None, compared: int, *, eight_bits: bool) -> None:
    least = task.gates.engine_label_agreement or _LEAST_AGREEMENT
    if agreement is not None and agreement < least:
        warn(
            f"in {8 if eight_bits else 16} bits the exported student keeps {agreement:.1%} of the merged student's "
            f"{compared:,} labels of the reference queries; the gate (gates.engine_label_agreement) may refuse it",
            field="serving.dtype" if not eight_bits else "serving.quantization", expected=f"at least {least:.1%}",
            fix=how_to_agree(task.serving, eight_bits=eight_bits),
        )


def _prompts(run: Run, codec: Codec, classifier: Path) -> list[list[int]]:
    """Prompts of curriculum rows, evenly spaced over the file."""
    from task.tokenizer import load_tokenizer
    from teacher.curriculum.rows import read

    rows = read(run.finished("curriculum"), "train")
    tokenizer = load_tokenizer(classifier)
    step = max(1, len(rows) // _CALIBRATION_ROWS)
    return [codec.prompt(r.example.query, tokenizer).ids for r in rows[::step][:_CALIBRATION_ROWS]]


def _agreement(
    task: Task, codec: Codec, classifier: Path, exported: Path, reference: Sequence[Example]
) -> float:
    from eval.quality import label_agreement
    from task.openvino_runtime import TokenClassifier, precision_of
    from task.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(classifier)
    model = TokenClassifier(exported, precision=precision_of(task.serving.dtype))
    answers = []
    for at in range(0, len(reference), _BATCH):
        part = reference[at : at + _BATCH]
        prompts = [codec.prompt(x.query, tokenizer) for x in part]
        for row, prompt, scores in zip(part, prompts, model.scores([p.ids for p in prompts]), strict=True):
            answers.append(Example(row.query, codec.decode(row.query, scores[prompt.positions], task).labels))
    return round(label_agreement(reference, answers), 6)

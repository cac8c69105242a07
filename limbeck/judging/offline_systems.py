"""Predictions of all systems but the served one: dictionary, teacher, and the student in transformers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.artefacts import LabelFolder
from task.errors import warn
from task.labels import Example, Labelling
from task.word_index import WordIndex, findable

if TYPE_CHECKING:
    from eval.quality_schema import Calibration
    from eval.report_schema import PackedCheck
    from limbeck.run import Run
    from teacher.ledger.records import LedgerRow

TEACHER, DICTIONARY = "teacher", "dictionary"
UNTUNED, ADAPTER, MERGED = "base, not tuned", "student with adapter", "student, merged, in transformers"


def offline(run: Run, gold: Sequence[Example]) -> tuple[dict[str, list[Example]], dict[str, PackedCheck]]:
    """Predictions by system; base and adapter predict the first `eval.reference_rows` only.

    Returns:
        The predictions, and by system how a sample of those from a packed forward pass agrees with transformers.

    Raises:
        ComponentError: They differ by more than rounding explains.
    """
    from eval.dictionary_baseline import Dictionary
    from student.adapters import load_adapter
    from student.inference import predict
    from student.model import accelerator, dtype_on, load_base, on_device
    from student.packed_scores import packed_predict
    from task.codec import load_codec
    from task.model_store import fetch
    from task.tokenizer import load_tokenizer

    task, progress = run.task, run.progress
    sources = run.inputs.teacher
    out: dict[str, list[Example]] = {}
    checks: dict[str, PackedCheck] = {}
    if sources.catalogue:
        out[DICTIONARY] = Dictionary.from_catalogue(sources.catalogue, task).predict(gold)
    else:
        out[DICTIONARY] = Dictionary.from_labels(learned(run.files.curriculum), task).predict(gold)
    teacher = teacher_labels(run.files.label, gold) if task.teacher.backend != "labels" else None
    if teacher:
        out[TEACHER] = teacher
    codec, base = load_codec(run.files.merge.folder), fetch(task.student.base)
    tokenizer = load_tokenizer(base)
    reference = gold[: task.eval.reference_rows]
    device = accelerator()
    dtype = dtype_on(device, task.serving.dtype)

    words = run.files.bundle.items
    items = WordIndex.open(words) if words.exists() else None

    def served(rows: Sequence[Example]) -> list[Example]:
        """Without what the server would leave out, so that both can be compared."""
        return [replace(row, labels=findable(task, row.labels, items)) for row in rows]

    def student(name: str, model: Any, rows: Sequence[Example]) -> None:
        progress.begin(name, len(rows))
        found, check = packed_predict(
            on_device(model, device), codec, tokenizer, task, rows, device=device, progress=progress.advance
        )
        out[name] = served(found)
        if check is not None:
            checks[name] = check

    # The untuned base decides near-ties only: rounding of another forward pass would change a tenth of its labels.
    progress.begin(UNTUNED, len(reference))
    out[UNTUNED] = served(predict(
        on_device(load_base(base, dtype), device), codec, tokenizer, task, reference, device=device,
        progress=progress.advance,
    ))
    trained_on = load_base(base, dtype, task.student)
    student(ADAPTER, load_adapter(trained_on, run.files.train.adapter), reference)
    student(MERGED, load_base(run.files.merge.model, dtype), gold)
    return out, checks


def learned(curriculum: Path) -> list[Example]:
    """The rows that the student was trained on."""
    from teacher.curriculum.rows import read

    return [r.example for r in read(curriculum, "train")]


def teachers_rows(answered: Collection[str], gold: Sequence[Example]) -> list[int]:
    """Which gold rows the teacher is compared on: those of the queries that it answered.

    One that was never in its log, or got no answer, is no wrong answer: counted as one, it would let every student pass
    its teacher.
    """
    rows = [i for i, g in enumerate(gold) if g.query in answered]
    if 0 < len(rows) < len(gold):
        warn(
            f"the teacher has answers to {len(rows):,} of {len(gold):,} gold queries; it is compared on these",
            field="data.gold.test", fix="Run `limbeck label` again, or add the others to the file of --teacher",
        )
    return rows


def answered(label: LabelFolder, gold: Sequence[Example]) -> set[str]:
    """The gold queries that the teacher answered."""
    return set(_answers(label, gold))


def teacher_labels(label: LabelFolder, gold: Sequence[Example]) -> list[Example] | None:
    """The teacher's labels of the gold queries; a query without an answer has none.

    None where fewer than half of the queries have an answer: the figures would be about the provider, not the teacher.
    """
    found = _answers(label, gold)
    if 2 * len(found) < len({g.query for g in gold}):
        return None
    return [Example(g.query, found.get(g.query, ()), g.count, g.id) for g in gold]


def _answers(label: LabelFolder, gold: Sequence[Example]) -> dict[str, Labelling]:
    from teacher.ledger.records import UNANSWERED

    return {r.query: r.labels for r in teacher_rows(label, gold) if r.status not in UNANSWERED}


def teacher_rows(label: LabelFolder, gold: Sequence[Example]) -> list[LedgerRow]:
    """The teacher's rows of the gold queries, those of the log first."""
    from task.table_files import rows_of
    from teacher.ledger.records import LedgerRow

    wanted = {g.query for g in gold}
    files = [f for f in (label.labels, label.compared) if f.exists()]
    return [LedgerRow.from_json(r) for f in files for _, r in rows_of(f) if r["query"] in wanted]


def teacher_confidence(run: Run, gold: Sequence[Example]) -> Calibration | None:
    """Calibration of the teacher's confidence, and its threshold, on gold rows that neither was fitted on."""
    from eval.calibration import assess
    from task.files import read_json
    from task.normalize import normaliser
    from teacher.guardrails.confidence import rightness

    label, options = run.files.label, run.task.eval
    if not label.confidence.exists():
        return None
    truth = {g.query: g.labels for g in gold}
    normalise = normaliser(run.task.normaliser)
    confidence, right, groups = [], [], []
    for number, row in enumerate(teacher_rows(label, gold)):
        confidence += [x.confidence or 0.0 for x in row.labels]
        right += rightness(row, truth[row.query], normalise)
        groups += [number] * len(row.labels)
    if len(set(right)) < 2:
        return None
    return assess(
        confidence, right, groups, threshold=read_json(label.confidence)["threshold"], seed=options.seed,
        level=options.confidence,
    )

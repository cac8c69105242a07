"""The stage between curriculum and training that a task can ask for: find labels that are probably wrong.

What is found is masked, its row is dropped, or the teacher is asked again.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.stage import Result, run_stage
from limbeck.student_jobs import trained
from task.files import write_jsonl
from task.labels import Doubt, Example
from task.progress import Progress, quiet
from task.settings import CrossFit
from task.spec import Task
from task.training_row import TrainingRow

if TYPE_CHECKING:
    from limbeck.pipeline import Pipeline
    from student.label_errors import Suspect
    from task.codec import Codec
    from teacher.ledger.records import LedgerRow

_MOST = 0.2
_SHARE = 3  # a student that only has to contradict gets this part of the task's steps


def cross_fit(pipeline: Pipeline) -> Result:
    """Curriculum → the same without what students of the other folds contradict, and `suspects.jsonl`."""
    task = pipeline.task
    settings = task.curriculum.cross_fit
    assert settings is not None

    def work(folder: Path) -> Mapping[str, Any]:
        from task.codec import Codec
        from task.model_store import fetch
        from task.tokenizer import load_tokenizer
        from teacher.curriculum import rows as curriculum

        base = fetch(task.student.base)
        rows = curriculum.read(pipeline.folder("curriculum"), "train")
        dev = curriculum.read(pipeline.folder("curriculum"), "dev")
        codec = Codec.compile(task, [r.example for r in rows], load_tokenizer(base), form="read")
        usable = [r for r in rows if codec.representable(r.example)]
        found = contradicted(task, settings, base, codec, usable, folder, pipeline.console)
        write_jsonl(folder / "suspects.jsonl", (
            {"query": usable[x.row].example.query, **x.doubt.to_json(), "given": round(x.given, 4),
             "instead": round(x.instead, 4), "says": x.says} for x in found
        ))
        share = doubted(len(found), [x.example for x in usable], codec, task)
        if share > _MOST:
            curriculum.write(curriculum.Curriculum(rows, dev, {}), task, folder)
            pipeline.console.begin(f"students doubt {share:.0%} of the labels: too weak, nothing is changed")
            return {"suspects": len(found), "rows_with_suspects": 0, "doubted": share, "train": len(rows)}
        doubts: dict[str, list[Doubt]] = {}
        for x in found:
            doubts.setdefault(usable[x.row].example.query, []).append(x.doubt)
        asked: dict[str, int] = {}
        if settings.action == "ask":
            train, asked = after_review(rows, doubts, _reviewed(pipeline, [x.example for x in usable], found))
        else:
            train = without(rows, doubts, settings.action)
        left = {"contradicted by students": len(rows) - len(train)} if len(train) < len(rows) else {}
        curriculum.write(curriculum.Curriculum(train, dev, left), task, folder)
        return {
            "suspects": len(found), "rows_with_suspects": len(doubts), "doubted": share, **asked, "train": len(train),
        }

    return run_stage(
        pipeline.run, "cross-fit",
        config=task.model_dump(mode="json", include={"student", "roles", "normaliser"})
        | {"cross_fit": settings.model_dump(mode="json")},
        inputs={"curriculum": pipeline.digest("curriculum")}, work=work,
    )


def doubted(suspects: int, examples: Sequence[Example], codec: Codec, task: Task) -> float:
    """The share of all decisions that students contradict: of the units of the queries, and of the closed roles.

    Above a fifth it says more about the students than about the labels: on labels of which a tenth was wrong, students
    of 80 steps doubted a quarter, three right ones for each wrong one, and what was left was hardly worth learning.
    """
    from task.segmentation import units

    probes = len(task.closed_roles)
    decisions = sum(len(units(x.query, codec.segmentation)) + probes for x in examples)
    return round(suspects / decisions, 4) if decisions else 0.0


def without(
    rows: Sequence[TrainingRow], doubts: Mapping[str, Sequence[Doubt]], action: str
) -> list[TrainingRow]:
    """Rows without those of which something is suspected (`drop`), or with it marked as doubtful (`mask`)."""
    if action == "drop":
        return [r for r in rows if r.example.query not in doubts]
    return [replace(r, doubts=(*r.doubts, *doubts.get(r.example.query, ()))) for r in rows]


def _reviewed(pipeline: Pipeline, examples: Sequence[Example], found: Sequence[Suspect]) -> dict[str, LedgerRow]:
    """What the teacher says when it is shown what students doubt."""
    from task.model_store import fetch
    from teacher.backends.llm.review import question, review
    from teacher.ledger.ledger import Ledger

    lines: dict[str, list[str]] = {}
    for x in found:
        example = examples[x.row]
        said = x.doubt.role if x.doubt.start is not None else next(
            (label.text for label in example.labels if label.role == x.doubt.role), ""
        )
        lines.setdefault(example.query, []).append(question(example.query, x.doubt, said=said, instead=x.says))
    with Ledger(pipeline.run / "ledger.sqlite") as ledger:
        return review(
            pipeline.task, pipeline.inputs.teacher, ledger, pipeline.index, fetch, lines, pipeline.console
        )


def after_review(
    rows: Sequence[TrainingRow], doubts: Mapping[str, Sequence[Doubt]], reviewed: Mapping[str, LedgerRow]
) -> tuple[list[TrainingRow], dict[str, int]]:
    """The rows after the teacher has looked again, and how often it stood by its labels.

    What it says now counts, whether it insists or not; where it gave no answer that the guardrails let stand, what was
    doubted is masked.
    """
    out = []
    counts = {"insisted": 0, "changed": 0, "unanswered": 0}
    for row in rows:
        query = row.example.query
        now = reviewed.get(query)
        if query not in doubts:
            out.append(row)
        elif now is None or now.status != "accepted":
            counts["unanswered"] += 1
            out.append(replace(row, doubts=(*row.doubts, *doubts[query])))
        elif {x.key for x in now.labels} == {x.key for x in row.example.labels}:
            counts["insisted"] += 1
            out.append(row)
        else:
            counts["changed"] += 1
            labels = tuple(replace(x, confidence=None) for x in now.labels)  # not calibrated: the row's counts
            out.append(replace(row, example=replace(row.example, labels=labels), doubts=()))
    return out, counts


def contradicted(
    task: Task, settings: CrossFit, base: Path, codec: Codec, rows: Sequence[TrainingRow], folder: Path,
    progress: Progress = quiet,
) -> list[Suspect]:
    """Train a student on every fold's complement and ask it about the fold; the students go when all is known."""
    from student.label_errors import fold_of, suspects
    from student.ray_connection import connected
    from student.training.job import Job

    quick = _quick(task, settings, len(rows))
    folds = fold_of([r.cluster for r in rows], settings.folds)
    scores: list[Any] = [None] * len(rows)
    with connected(quick.student):
        for k in range(settings.folds):
            progress.begin(f"cross-fit {k + 1} of {settings.folds}")
            inside = [i for i, f in enumerate(folds) if f == k]
            outside = [r for r, f in zip(rows, folds, strict=True) if f != k]
            job = Job(quick, base, codec, outside, [], folder / "folds" / str(k), reshuffle=True)
            for i, score in zip(inside, _ask(job, [rows[i].example.query for i in inside], progress), strict=True):
                scores[i] = score
    shutil.rmtree(folder / "folds")
    return suspects(codec, [r.example for r in rows], scores)


def _quick(task: Task, settings: CrossFit, rows: int) -> Task:
    """The task with a student that is trained for few steps and watched by nobody."""
    from student.training.order import total_steps

    s = task.student
    steps = settings.steps or max(1, total_steps(rows, s.batch_size, s.epochs, s.max_steps) // _SHARE)
    return task.model_copy(update={"student": s.model_copy(update={
        "form": "read", "max_steps": steps, "epochs": 1e6, "keep_best": False, "early_stop": None, "report_to": (),
    })})


def _ask(job: Any, queries: Sequence[str], progress: Progress) -> list[Any]:
    """Train a fold's student, if that has not been done, and score queries that it has not seen."""
    from student.inference import all_scores
    from student.training.launch import launch
    from task.tokenizer import load_tokenizer

    if not (job.folder / "order.json").exists():
        launch(job, progress)
    model, device = trained(job)
    progress.begin("asking it about the others", len(queries))
    return all_scores(
        model, job.codec, load_tokenizer(job.base), queries, device=device, progress=progress.advance
    )

"""`cross-fit`, between curriculum and training, for a task that asks for it: find labels that are probably wrong.

Cross-fitting trains students on folds of the curriculum, and each predicts the fold that it was not trained on
(confident learning, Northcutt et al. 2021). A suspect label is masked, its row is dropped, or the teacher is asked
again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.run import Run, Shortfall
from limbeck.stage import Figures, Stage
from limbeck.stages import label
from limbeck.staleness import Rules, settings_of_training
from limbeck.student_jobs import trained
from task.files import read_json, sha256_json, write_json, write_jsonl
from task.labels import Doubt, Example
from task.progress import Progress, quiet
from task.settings import CrossFit
from task.spec import Task
from task.training_row import TrainingRow

if TYPE_CHECKING:
    from eval.report_schema import PackedCheck
    from student.label_errors import Suspect
    from task.codec import Codec
    from teacher.ledger.records import LedgerRow

PACKED = "packed.json"
_MOST = 0.2
_SHARE = 3  # a student that only finds label errors is trained for the task's steps divided by this


def _settings(run: Run) -> CrossFit:
    settings = run.task.curriculum.cross_fit
    assert settings is not None  # the stage is not wanted without it
    return settings


def _config(run: Run) -> object:
    return settings_of_training(run.task) | {"cross_fit": _settings(run).model_dump(mode="json")}


def _inputs(run: Run) -> dict[str, str]:
    """With the action `ask` also what is asked, and whom: labels can stay the same when the teacher changes."""
    inputs = {"curriculum": run.digest("curriculum")}
    if _settings(run).action == "ask":
        inputs["reviewer"] = sha256_json([label.settings(run), label.STAGE.inputs(run)])
    return inputs


def _rules(run: Run) -> Rules:
    import student
    from llm_client.prompt_rules import review_rules
    from student import training
    from task import codec
    from teacher.backends.backend import backend_of
    from teacher.guardrails import label_checks

    own = {"codec": codec.version(run.task), "label errors": student.LABEL_ERRORS, "training": training.VERSION}
    if _settings(run).action != "ask":
        return own
    return {**own, "guardrails": label_checks.VERSION, **backend_of(run.task).rules(run.task), **review_rules()}


def _work(run: Run, folder: Path) -> Figures:
    """Write the curriculum without the labels that out-of-fold students contradict, and `suspects.jsonl`."""
    from task.codec import Codec
    from task.model_store import fetch
    from task.tokenizer import load_tokenizer
    from teacher.curriculum.rows import Curriculum, read, write

    task, settings = run.task, _settings(run)
    base, source = fetch(task.student.base), run.finished("curriculum")
    rows, dev = read(source, "train"), read(source, "dev")
    codec = Codec.compile(task, [r.example for r in rows], load_tokenizer(base), form="read")
    usable = [r for r in rows if codec.representable(r.example)]
    suspects = folder / "suspects.jsonl"
    if suspects.exists():  # all that is missing is answers of the teacher
        found = read_suspects(suspects, usable)
    else:
        found = contradicted(
            task, settings, usable, base=base, codec=codec, folder=folder, progress=run.progress
        )
        write_suspects(suspects, usable, found)
    found = [x for x in found if usable[x.row].example.query not in run.inputs.verdicts]  # people outrank students
    train, figures = cleaned(
        task, rows, usable, found, codec,
        review=lambda: _reviewed(run, [x.example for x in usable], found),
    )
    left = {"contradicted by students": len(rows) - len(train)} if len(train) < len(rows) else {}
    write(Curriculum(train, dev, left), task, folder)
    if figures["doubted"] > _MOST:
        run.progress.begin(f"students contradict {figures['doubted']:.0%} of the labels: too weak, nothing is changed")
    return {**figures, **_packed_figures(folder)}


def _packed_figures(folder: Path) -> Figures:
    """The worst of the folds' checks of packed predictions; none where transformers computed them."""
    if not (folder / PACKED).exists():
        return {}
    checks = read_json(folder / PACKED)
    return {
        "packed_logit_error": max(c["logit_error"] for c in checks),
        "packed_label_agreement": min(c["label_agreement"] for c in checks),
    }


def write_suspects(path: Path, usable: Sequence[TrainingRow], found: Sequence[Suspect]) -> None:
    """Write `suspects.jsonl`: a line per suspect label, with the two probabilities."""
    write_jsonl(path, (
        {"query": usable[x.row].example.query, **x.doubt.to_json(), "given": round(x.given, 4),
         "instead": round(x.instead, 4), "says": x.says} for x in found
    ))


def read_suspects(path: Path, usable: Sequence[TrainingRow]) -> list[Suspect]:
    """The suspects that an attempt wrote; its students are not trained again."""
    from student.label_errors import Suspect
    from task.table_files import rows_of

    row_of = {r.example.query: i for i, r in enumerate(usable)}
    return [
        Suspect(
            row_of[r["query"]], Doubt(r["role"], r["start"], r["end"]), r["given"], r["instead"], r["says"]
        ) for _, r in rows_of(path)
    ]


def missing(_run: Run, figures: Figures) -> Shortfall | None:
    """Doubts that the teacher was asked about and gave no answer to: it is asked again, and nothing is trained again.

    Meanwhile their labels are masked, as doubts are that the teacher's answer does not settle.
    """
    count = figures.get("no_answer", 0)
    if not count:
        return None
    return Shortfall(text=f"{count:,} of {figures['rows_with_suspects']:,} doubted queries got no answer when reviewed")


def cleaned(
    task: Task, rows: Sequence[TrainingRow], usable: Sequence[TrainingRow], found: Sequence[Suspect], codec: Codec, *,
    review: Callable[[], Mapping[str, LedgerRow]],
) -> tuple[list[TrainingRow], Figures]:
    """The rows without the labels that students contradict, and the figures of the stage.

    Args:
        rows: The curriculum's training rows.
        usable: Those of them that students predicted; `Suspect.row` is an index into these.
        review: Returns the teacher's new labels of the suspect queries; called for the action `ask` only.
    """
    settings = task.curriculum.cross_fit
    assert settings is not None
    share = doubted(len(found), [x.example for x in usable], codec, task)
    if share > _MOST:
        return list(rows), {"suspects": len(found), "rows_with_suspects": 0, "doubted": share, "train": len(rows)}
    doubts: dict[str, list[Doubt]] = {}
    for x in found:
        doubts.setdefault(usable[x.row].example.query, []).append(x.doubt)
    asked: dict[str, int] = {}
    if settings.action == "ask":
        train, asked = after_review(rows, doubts, review())
    else:
        train = without(rows, doubts, settings.action)
    return train, {
        "suspects": len(found), "rows_with_suspects": len(doubts), "doubted": share, **asked, "train": len(train),
    }


STAGE = Stage(
    name="cross-fit", config=_config, inputs=_inputs, rules=_rules,
    missing=missing, work=_work, phase="train", wanted=lambda task: task.curriculum.cross_fit is not None,
    headline=lambda f: f"{f['suspects']:,} labels contradicted, {f['train']:,} train rows",
)


def doubted(suspects: int, examples: Sequence[Example], codec: Codec, task: Task) -> float:
    """The share of all decisions that students contradict: of the units of the queries, and of the closed roles.

    A share above a fifth means that the students are too weak: on labels of which a tenth was wrong, students of 80
    steps contradicted a quarter, three right labels for each wrong one, and a student trained on the rest was much
    worse.
    """
    probes = len(task.closed_roles)
    decisions = sum(len(codec.tagged_units(x.query)) + probes for x in examples)
    return round(suspects / decisions, 4) if decisions else 0.0


def without(
    rows: Sequence[TrainingRow], doubts: Mapping[str, Sequence[Doubt]], action: str
) -> list[TrainingRow]:
    """The rows without those that have a suspect label (`drop`), or with suspect labels marked as doubtful (`mask`)."""
    if action == "drop":
        return [r for r in rows if r.example.query not in doubts]
    return [replace(r, doubts=(*r.doubts, *doubts.get(r.example.query, ()))) for r in rows]


def _reviewed(run: Run, examples: Sequence[Example], found: Sequence[Suspect]) -> dict[str, LedgerRow]:
    """The teacher's new labels of the queries with suspect labels, after it was shown the students' predictions."""
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
    with Ledger(run.files.ledger) as ledger:
        return review(
            run.task, run.inputs.teacher, ledger, run.files.index, fetch, questions=lines, progress=run.progress
        )


def after_review(
    rows: Sequence[TrainingRow], doubts: Mapping[str, Sequence[Doubt]], reviewed: Mapping[str, LedgerRow]
) -> tuple[list[TrainingRow], dict[str, int]]:
    """The rows with the teacher's reviewed labels, and how often the teacher kept or changed its labels.

    `no_answer` of the `unanswered` are those that may be answered when they are asked again.

    The reviewed labels replace the old ones. Without a reviewed labelling that the guardrails accept, the suspect
    labels are masked.
    """
    from teacher.backends.llm.review import CUT

    out = []
    counts = {"insisted": 0, "changed": 0, "unanswered": 0, "no_answer": 0}
    for row in rows:
        query = row.example.query
        now = reviewed.get(query)
        if query not in doubts:
            out.append(row)
        elif now is None or now.status != "accepted":
            counts["unanswered"] += 1
            counts["no_answer"] += now is not None and now.status == "failed" and now.reason != CUT
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
    task: Task, settings: CrossFit, rows: Sequence[TrainingRow], *, base: Path, codec: Codec, folder: Path,
    progress: Progress = quiet,
) -> list[Suspect]:
    """Train a student on every fold's complement and let it predict the fold; the students are deleted at the end.

    Where predictions were computed packed, `packed.json` in `folder` has a check against transformers for each fold.

    Raises:
        ComponentError: A packed prediction is wrong.
    """
    from student.label_errors import fold_of, suspects
    from student.ray_connection import connected
    from student.training.job import TrainingJob

    quick = _quick(task, settings, len(rows))
    folds = fold_of([r.cluster for r in rows], settings.folds)
    scores: list[Any] = [None] * len(rows)
    checks: list[PackedCheck] = []
    with connected(quick.student):
        for k in range(settings.folds):
            progress.begin(f"cross-fit {k + 1} of {settings.folds}")
            inside = [i for i, f in enumerate(folds) if f == k]
            outside = [r for r, f in zip(rows, folds, strict=True) if f != k]
            job = TrainingJob(quick, base, codec, outside, [], folder / "folds" / str(k), reshuffle=True)
            found, check = _ask(job, [rows[i].example.query for i in inside], progress)
            for i, score in zip(inside, found, strict=True):
                scores[i] = score
            if check is not None:
                checks.append(check)
    if checks:
        write_json(folder / PACKED, checks)
    shutil.rmtree(folder / "folds")
    return suspects(codec, [r.example for r in rows], scores)


def _quick(task: Task, settings: CrossFit, rows: int) -> Task:
    """The task with a student that is trained for few steps, without evaluation or reporting."""
    from student.training.order import total_steps

    s = task.student
    whole = total_steps(rows, batch_size=s.batch_size, epochs=s.epochs, max_steps=s.max_steps)
    steps = settings.steps or max(1, whole // _SHARE)
    return task.model_copy(update={"student": s.model_copy(update={
        "form": "read", "max_steps": steps, "epochs": 1e6, "keep_best": False, "early_stop": None, "report_to": (),
    })})


def _ask(job: Any, queries: Sequence[str], progress: Progress) -> tuple[list[Any], PackedCheck | None]:
    """Train a fold's student, if that has not been done, and score queries that it has not seen."""
    from student.packed_scores import packed_scores
    from student.training.launch import launch
    from task.tokenizer import load_tokenizer

    if not (job.folder / "order.json").exists():
        launch(job, progress)
    model, device = trained(job)
    progress.begin("predicting the held-out fold", len(queries))
    return packed_scores(
        model, job.codec, load_tokenizer(job.base), queries, device=device, progress=progress.advance
    )

"""`limbeck audit-context`: the teacher with and without each kind of context, on gold."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from eval.page_schema import AuditSlice, AuditVariant
from limbeck.pipeline import Pipeline
from limbeck.stages.evaluate import has_traffic
from task.errors import InputError
from task.labels import Example
from task.spec import Task

ALL = "all of it"
GOLD = ("calibration", "test")


def audit(pipeline: Pipeline, gold_name: str) -> Path:
    """Label the gold queries once per variant and compare; writes `audit/` in the run folder.

    An LLM's replies go to the task's ledger, so that a second audit pays for nothing.

    Args:
        gold_name: `calibration` or `test`.

    Returns:
        The page.
    """
    if gold_name not in GOLD:
        raise InputError("unknown gold split", field="--gold", found=gold_name, expected=" or ".join(GOLD))
    from eval.report import write_audit
    from eval.slices import TRAFFIC, traffic

    task = pipeline.task
    pipeline.inputs.prepare()
    sources = pipeline.inputs.teacher
    gold = list(sources.calibration) if gold_name == "calibration" else pipeline.inputs.test
    if not gold:
        raise InputError(
            f"there are no gold {gold_name} rows to compare on", field=f"data.gold.{gold_name}",
            fix="Name a file of labelled queries, or choose the other split with --gold",
        )
    # All of it comes last: the ledger's rows of these queries are then the ones that the task itself would give.
    found = {name: _label(pipeline, variant, gold) for name, variant in reversed(variants(task).items())}
    slices = {"all queries": list(range(len(gold)))}
    if has_traffic(pipeline):
        names = traffic(gold, sources.log, task)
        slices |= {s: [i for i, n in enumerate(names) if n == s] for s in TRAFFIC}
    folder = pipeline.run / "audit"
    write_audit(folder, {
        "task": task.name, "backend": task.teacher.backend, "gold": gold_name, "rows": len(gold),
        "level": task.eval.confidence,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "slices": [_slice(task, name, rows, gold, found) for name, rows in slices.items() if rows],
    })
    return folder / "audit.html"


def variants(task: Task) -> dict[str, Task]:
    """The task with all of its context, less each kind, and with none."""
    backend = task.teacher.backend
    if backend == "labels":
        raise InputError("imported labels have no context to audit", field="teacher.backend", found=backend)
    kinds: Sequence[str] = task.teacher.retrieval.use if backend == "catalog" else task.teacher.openai.context
    chosen = {ALL: kinds, **{f"without {k}": [x for x in kinds if x != k] for k in kinds}, "none of it": []}
    return {name: _with(task, used) for name, used in chosen.items()}


def _with(task: Task, kinds: Sequence[str]) -> Task:
    teacher = task.teacher
    if teacher.backend == "catalog":
        changed = teacher.model_copy(update={"retrieval": teacher.retrieval.model_copy(update={"use": tuple(kinds)})})
    else:
        changed = teacher.model_copy(update={"openai": teacher.openai.model_copy(update={"context": tuple(kinds)})})
    return task.model_copy(update={"teacher": changed})


def _label(pipeline: Pipeline, task: Task, gold: Sequence[Example]) -> list[Example]:
    """The teacher's labels of the gold queries under a variant."""
    from task.model_store import fetch
    from teacher.label import label_queries
    from teacher.ledger.ledger import Ledger

    sources = pipeline.inputs.teacher
    asked = [replace(g, labels=()) for g in gold]
    if task.teacher.backend == "catalog":  # it learns from the whole log, and nothing is paid
        known = {q.query for q in sources.log}
        asked = [*sources.log, *(q for q in asked if q.query not in known)]
        ledger = Ledger(Path(":memory:"))
    else:
        ledger = Ledger(pipeline.run / "ledger.sqlite")
    with ledger:
        label_queries(task, replace(sources, log=asked), ledger, pipeline.index, fetch, pipeline.console)
        rows = ledger.rows(g.query for g in gold)
    return [replace(g, labels=rows[g.query].labels if g.query in rows else ()) for g in gold]


def _slice(
    task: Task, name: str, rows: Sequence[int], gold: Sequence[Example], found: Mapping[str, Sequence[Example]]
) -> AuditSlice:
    from eval.quality import paired_difference, quality

    truth = [gold[i] for i in rows]
    whole = [found[ALL][i] for i in rows]
    out: list[AuditVariant] = []
    for variant in reversed(list(found)):
        labelled = found[variant]
        part = [labelled[i] for i in rows]
        figures = quality(truth, part, task)["value"]
        worth = None if variant == ALL else paired_difference(truth, whole, part, task)
        out.append({
            "name": variant, "precision": figures["precision"], "recall": figures["recall"], "f1": figures["f1"],
            "worth": worth,
        })
    return {"name": name, "rows": len(rows), "variants": out}

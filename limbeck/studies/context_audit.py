"""`limbeck audit-context`: the teacher with and without each kind of context, on gold."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from eval.page_schema import AuditSlice, AuditVariant
from eval.quality_schema import Estimate
from limbeck.run import Run, Shortfall
from task.errors import IncompleteError, InputError
from task.labels import Example
from task.spec import Task
from teacher.backends.job import LabellingPlan, Sources, in_all
from teacher.ledger.missing_answers import Missing

ALL = "all of it"
GOLD = ("calibration", "test")
_FEW = 10  # queries of a slice; resampling fewer gives intervals that are too narrow


def audit(run: Run, gold_name: str) -> Path:
    """Label the gold queries once per variant and compare; writes `audit/` in the run folder.

    Compared are the queries that every variant has an answer for: a request that failed tells nothing about the
    context. An LLM's replies go to the task's ledger, so that a second audit costs nothing.

    Args:
        gold_name: `calibration` or `test`.

    Returns:
        The page.
    """
    from eval.report import write_audit
    from eval.slices import TRAFFIC, traffic

    task, sources, gold = run.task, run.inputs.teacher, _gold(run, gold_name)
    if plans := plan(run, gold_name):
        run.progress.finished(f"to ask: {in_all(plans.values()).spending}")
    # The variant with all context runs last, so that the ledger keeps its rows: those that the task itself would give.
    answered: dict[str, Missing] = {}
    labelled = {name: _label(run, variant, gold, name, answered) for name, variant in reversed(variants(task).items())}
    _note_missing(run, answered, labelled, len(gold))
    compared = [i for i in range(len(gold)) if all(rows[i] is not None for rows in labelled.values())]
    if not compared:
        raise IncompleteError("no gold query has an answer with every context, so there is nothing to compare")
    gold = [gold[i] for i in compared]
    found = {name: [x for i in compared if (x := rows[i]) is not None] for name, rows in labelled.items()}
    slices = {"all queries": list(range(len(gold)))}
    if run.inputs.has_traffic:
        names = traffic(gold, sources.log, task)
        slices |= {s: [i for i, n in enumerate(names) if n == s] for s in TRAFFIC}
    folder = run.files.audit
    write_audit(folder, {
        "task": task.name, "backend": task.teacher.backend, "gold": gold_name, "rows": len(gold),
        "level": task.eval.confidence,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "slices": [_slice(task, name, rows, gold, found) for name, rows in slices.items() if rows],
    })
    return folder / "audit.html"


def plan(run: Run, gold_name: str) -> dict[str, LabellingPlan]:
    """What `audit` would ask, by variant in its order, as `limbeck label --plan` does; none where no LLM is asked.

    Variants have requests in common, such as those of queries that a kind finds nothing for: the first one asks them.
    """
    from task.model_store import fetch
    from teacher.backends.backend import backend_of
    from teacher.label import plan_labelling
    from teacher.ledger.ledger import Ledger

    gold = _gold(run, gold_name)
    if not backend_of(run.task).asks_llm:
        return {}
    out: dict[str, LabellingPlan] = {}
    planned: frozenset[str] = frozenset()
    with Ledger(run.files.ledger) as ledger:
        for name, variant in reversed(variants(run.task).items()):
            sources = replace(_sources(run), log=_asked(gold))
            out[name] = plan_labelling(
                variant, sources, ledger, run.files.index, fetch, run.progress, planned=planned
            )
            planned |= out[name].requests
    return out


def _gold(run: Run, name: str) -> list[Example]:
    """The gold queries to compare on."""
    if name not in GOLD:
        raise InputError("unknown gold split", field="--gold", found=name, expected=" or ".join(GOLD))
    gold = list(run.inputs.teacher.calibration) if name == "calibration" else run.inputs.test
    if not gold:
        raise InputError(
            f"there are no gold {name} rows to compare on", field=f"data.gold.{name}",
            fix="Name a file of labelled queries, or choose the other split with --gold",
        )
    return gold


def _sources(run: Run) -> Sources:
    """The teacher's; each variant is asked about the chosen gold alone."""
    return replace(run.inputs.teacher, test_queries=())


def _asked(gold: Sequence[Example]) -> list[Example]:
    return [replace(g, labels=()) for g in gold]


def variants(task: Task) -> dict[str, Task]:
    """The task with all of its context, less each kind, and with none; also less the guardrail `guard.relevance`."""
    from teacher.backends.backend import backend_of
    from teacher.guardrails.label_checks import checks_relevance

    backend = backend_of(task)
    kinds = backend.context_kinds(task)
    if kinds is None:
        raise InputError(
            "imported labels have no context to audit", field="teacher.backend", found=task.teacher.backend
        )
    chosen = {ALL: kinds, **{f"without {k}": [x for x in kinds if x != k] for k in kinds}, "none of it": []}
    out = {name: backend.with_context(task, used) for name, used in chosen.items()}
    if checks_relevance(task):  # asks nothing: the stored replies are validated again
        out["without guard.relevance"] = _without_relevance(task)
    return out


def _without_relevance(task: Task) -> Task:
    off = {"relevance": None, "relevance_max": None}
    roles = [r.model_copy(update={"guard": r.guard.model_copy(update=off)}) for r in task.roles]
    return task.model_copy(update={"roles": tuple(roles)})


def _note_missing(
    run: Run, answered: Mapping[str, Missing], labelled: Mapping[str, Sequence[Example | None]], rows: int
) -> None:
    """Say which variants lack answers: these queries are not compared.

    Raises:
        IncompleteError: A variant has no answer at all.
    """
    for name, missing in answered.items():
        if without := labelled[name].count(None):
            cause = f" (most often: {missing.cause})" if missing.cause else ""
            run.note(Shortfall(
                text=f"context `{name}`: {without:,} of {rows:,} gold queries have no usable answer and are "
                f"left out of the comparison{cause}", fails=missing.unanswered > 0, stops=without >= rows,
            ))


def _label(
    run: Run, task: Task, gold: Sequence[Example], name: str, answered: dict[str, Missing]
) -> list[Example | None]:
    """The teacher's labels of the gold queries under a variant, None without an answer; notes those under its name."""
    from task.model_store import fetch
    from teacher.backends.backend import backend_of
    from teacher.label import label_queries
    from teacher.ledger.ledger import Ledger

    run.progress.begin(f"gold with context `{name}`", len(gold))
    sources, asked = _sources(run), _asked(gold)
    if backend_of(task).uses_whole_log:  # nothing is paid for it
        known = {q.query for q in sources.log}
        asked = [*sources.log, *(q for q in asked if q.query not in known)]
        ledger = Ledger(Path(":memory:"))
    else:
        ledger = Ledger(run.files.ledger)
    with ledger:
        done = label_queries(task, replace(sources, log=asked), ledger, run.files.index, fetch, run.progress)
        answered[name] = done.missing
        rows = ledger.rows(g.query for g in gold)
    answers = {query: row.labels for query, row in rows.items() if row.status != "failed"}
    return [replace(g, labels=answers[g.query]) if g.query in answers else None for g in gold]


def _alone(figure: Estimate) -> Estimate:
    """A figure without its interval."""
    return {**figure, "low": None, "high": None}


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
        known: Callable[[Estimate], Estimate] = _alone if len(rows) < _FEW else lambda x: x
        out.append({
            "name": variant, "precision": known(figures["precision"]), "recall": known(figures["recall"]),
            "f1": known(figures["f1"]), "worth": None if worth is None else known(worth),
        })
    return {"name": name, "rows": len(rows), "variants": out}

"""The labelling job: every query of the log comes out with a status, and nothing is paid for twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_client.attempt import Attempt
from task.files import sha256_json
from task.labels import Example
from task.progress import Progress, quiet
from task.spec import Task
from teacher.backends.job import Job, Plan, Sources
from teacher.guardrails.checks import Tally
from teacher.guardrails.confidence import Calibration, apply, calibrate, gold_of
from teacher.guardrails.judge import Answer, Judge, make_judge, skipped
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import Book, LedgerRow

_BATCH = 500
LLM_BACKENDS = frozenset({"openai", "openai-batch", "vllm"})


@dataclass(frozen=True, slots=True)
class Labelled:
    """The result of a labelling job.

    Attributes:
        statuses: Status → queries.
        verdicts: Counted by role and reason, with examples.
        calibration: None where there was too little gold to calibrate on.
    """

    statuses: Mapping[str, int]
    verdicts: list[dict[str, Any]]
    spent: Mapping[str, float]
    calibration: Calibration | None
    _log: Sequence[Example]
    _ledger: Book

    @property
    def rows(self) -> Iterator[LedgerRow]:
        """One row per distinct query of the log, in its order."""
        for at in range(0, len(self._log), _BATCH):
            part = self._log[at : at + _BATCH]
            found = self._ledger.rows(q.query for q in part)
            for q in part:
                yield replace(found[q.query], count=q.count)


def label_queries(
    task: Task, sources: Sources, ledger: Ledger, folder: Path, fetch: Callable[[str], Path],
    progress: Progress = quiet,
) -> Labelled:
    """Label every query of the log with the task's backend.

    Args:
        ledger: Replies that it already holds are used, not asked for again.
        folder: For the index; what is there for the same input is used.
        fetch: Gives the folder of a model by name.

    Raises:
        InputError: Another job is labelling into the same ledger.
    """
    with ledger.writing():
        return _label_queries(task, sources, ledger, folder, fetch, progress)


def _label_queries(
    task: Task, sources: Sources, ledger: Ledger, folder: Path, fetch: Callable[[str], Path], progress: Progress
) -> Labelled:
    log = distinct(sources.log)
    job = _job(task, sources, log, ledger, folder, fetch, progress)
    judge = make_judge(task, sources.catalogue, folder, fetch)
    ledger.settle(_not_asked(task, log))
    if task.teacher.backend == "openai-batch":
        from teacher.backends.llm import batch

        batch.label(job, ledger, judge)
    elif task.teacher.workers:
        from teacher.backends.llm import ray_workers as cluster

        cluster.label(job, ledger)
    elif task.teacher.backend in LLM_BACKENDS:
        from teacher.backends.llm import backend as backend_llm

        backend_llm.label(job, judge, lambda _: None)
    else:
        _offline(job, judge)
    return _finish(job, log)


def plan_labelling(
    task: Task, sources: Sources, ledger: Ledger, folder: Path, fetch: Callable[[str], Path],
    progress: Progress = quiet,
) -> Plan:
    """What `label_queries` would do; asks nobody and writes nothing."""
    job = _job(task, sources, distinct(sources.log), ledger, folder, fetch, progress)
    judge = make_judge(task, sources.catalogue, folder, fetch)
    if task.teacher.backend in LLM_BACKENDS:
        from teacher.backends.llm import backend as backend_llm

        return backend_llm.plan(job, judge)
    keys = _keys(job)
    rows = ledger.rows(keys)
    stands = {q for q, r in rows.items() if (r.request, r.judged) == (keys[q], judge.fingerprint)}
    again = [q for q in keys if q not in stands]
    return Plan([], again, len(keys) - len(again))


def _job(
    task: Task, sources: Sources, log: Sequence[Example], ledger: Ledger, folder: Path,
    fetch: Callable[[str], Path], progress: Progress,
) -> Job:
    """The queries to label: those of the log, and the calibration rows that are not in it.

    Too few rows to calibrate on are examples for the prompt and nothing more: asking about them would buy nothing.
    """
    known = {q.query for q in log}
    calibration = distinct(sources.calibration)
    extra = [replace(e, labels=(), count=0) for e in calibration if e.query not in known]
    enough = len(calibration) >= task.teacher.confidence.min_rows
    wanted = extra if enough and task.teacher.backend != "labels" else []
    queries = [q for q in (*log, *wanted) if _problem(task, q) is None]
    return Job(task, sources, queries, ledger, folder, fetch, progress)


def _problem(task: Task, query: Example) -> str | None:
    """Why a query is not worth asking about, or None."""
    most = task.data.max_query_chars
    if not query.query.strip():
        return "empty query"
    if len(query.query) > most:
        return f"{len(query.query)} characters, more than data.max_query_chars = {most}"
    return None


def _not_asked(task: Task, log: Sequence[Example]) -> Iterator[LedgerRow]:
    for q in log:
        if (why := _problem(task, q)) is not None:
            yield skipped(q, why)


# -- backends that ask nobody ----------------------------------------------------------------------------------------


def _keys(job: Job) -> dict[str, str]:
    """Query → key of its reply, for the backends that ask nobody."""
    task = job.task
    if task.teacher.backend == "labels":
        imported = {e.query: e for e in job.sources.imported}
        return {
            q.query: sha256_json({"backend": "labels", "query": q.query, "reply": _imported(imported[q.query])})
            for q in job.queries
        }
    from teacher.backends.catalog.backend import VERSION

    settings = task.teacher.model_dump(mode="json", include={"retrieval", "fuzzy", "min_confidence"})
    roles = [r.model_dump(mode="json", exclude={"guard"}) for r in task.roles]
    common = {
        "backend": "catalog", "version": VERSION, "settings": settings, "roles": roles,
        "inputs": job.sources.fingerprint,
    }
    base = sha256_json(common)
    return {q.query: sha256_json([base, q.query]) for q in job.queries}


def _offline(job: Job, judge: Judge) -> None:
    """Read or compute each reply, record it, judge it."""
    keys = _keys(job)
    missing = len(keys) - len(job.ledger.asked(keys.values()))
    reply: Callable[[str], tuple[str, Mapping[str, Any]]]
    if job.task.teacher.backend == "labels":
        imported = {e.query: e for e in job.sources.imported}

        def reply(query: str) -> tuple[str, Mapping[str, Any]]:
            return _imported(imported[query]), {}
    elif missing:
        from teacher.backends.catalog.backend import CatalogTeacher

        sources = job.sources
        model = job.fetch(job.task.teacher.retrieval.embedder)
        reply = CatalogTeacher(
            job.task, job.queries, sources.catalogue, sources.conversions, model, job.folder, job.progress
        ).reply
    job.progress.begin("labelling", len(job.queries))
    backend = job.task.teacher.backend
    for at in range(0, len(job.queries), _BATCH):
        part = job.queries[at : at + _BATCH]
        known = {k: r.content for k, r in job.ledger.replies(keys[q.query] for q in part).items()}
        attempts, rows = [], []
        for q in part:
            key = keys[q.query]
            if key not in known:
                known[key], evidence = reply(q.query)
                attempts.append(Attempt(key, q.query, backend, backend, evidence, known[key]))
            said = json.loads(known[key])
            rows.append(judge.row(q, Answer(q.query, key, said["labels"], said.get("signals", {}))))
        job.ledger.record(attempts, rows)
        job.progress.advance(len(part))


def _imported(example: Example) -> str:
    return json.dumps({"labels": [x.to_json() for x in example.labels]}, ensure_ascii=False)


# -- what is the same for all ----------------------------------------------------------------------------------------


def _finish(job: Job, log: Sequence[Example]) -> Labelled:
    """Calibrate on gold, then give every row its confidence and its final status."""
    ledger, task = job.ledger, job.task
    gold = gold_of(job.sources.calibration)
    known = ledger.rows(gold)
    calibration = calibrate(task, [known[q] for q in gold if q in known], gold)
    statuses: dict[str, int] = {}
    tally = Tally()
    job.progress.begin("confidence", len(log))
    for at in range(0, len(log), _BATCH):
        part = log[at : at + _BATCH]
        found = ledger.rows(q.query for q in part)
        rows = [
            replace(found[q.query], count=q.count) if q.query in found
            else LedgerRow(q.query, q.count, "", "failed", (), 0.0, "no reply") for q in part
        ]
        rows = rows if task.teacher.backend == "labels" else apply(rows, calibration, task.teacher.confidence)
        for row in rows:
            statuses[row.status] = statuses.get(row.status, 0) + 1
            tally.add(row.labels, row.verdicts)
        ledger.settle(r for r in rows if r != found.get(r.query))
        job.progress.advance(len(part))
    return Labelled(statuses, tally.rows(), ledger.spent(), calibration, log, ledger)


def distinct(log: Sequence[Example]) -> list[Example]:
    """Each query text once, counts added."""
    out: dict[str, Example] = {}
    for q in log:
        seen = out.get(q.query)
        out[q.query] = replace(seen, count=seen.count + q.count) if seen else replace(q, labels=())
    return list(out.values())

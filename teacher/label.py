"""The labelling job: every query of the log gets a row with a status, and no reply is paid for twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from task.labels import Example
from task.progress import Progress, quiet
from task.spec import Task
from task.text import has_half_character
from teacher.backends.backend import Backend, backend_of
from teacher.backends.job import LabellingJob, LabellingPlan, Sources
from teacher.backends.llm.provider_failures import ProviderError
from teacher.guardrails.confidence import Calibration, Obstacle, apply, calibrate, gold_of, obstacle
from teacher.guardrails.label_checks import VerdictCounts
from teacher.guardrails.validator import make_validator, skipped
from teacher.ledger.ledger import Ledger
from teacher.ledger.missing_answers import Missing, last_attempt, missing_answers
from teacher.ledger.records import LedgerAccess, LedgerRow

_BLOCK = 500


@dataclass(frozen=True, slots=True)
class Labelled:
    """The result of a labelling job.

    Attributes:
        statuses: Status → number of queries of the log.
        verdicts: Counts by role, verdict and reason, with examples.
        spent: Totals of the ledger: calls, tokens and money of all jobs.
        calibration: None if there was nothing to calibrate on.
        obstacle: What kept it from that.
        missing: What the next job would ask again.
    """

    statuses: Mapping[str, int]
    verdicts: list[dict[str, Any]]
    spent: Mapping[str, float]
    calibration: Calibration | None
    obstacle: Obstacle | None
    missing: Missing
    _log: Sequence[Example]
    _compared: Sequence[Example]
    _ledger: LedgerAccess

    @property
    def rows(self) -> Iterator[LedgerRow]:
        """One row per distinct query of the log, in its order."""
        return self._rows_of(self._log)

    @property
    def compared(self) -> Iterator[LedgerRow]:
        """One row per gold test query that the log does not have."""
        return self._rows_of(self._compared)

    def _rows_of(self, queries: Sequence[Example]) -> Iterator[LedgerRow]:
        for at in range(0, len(queries), _BLOCK):
            part = queries[at : at + _BLOCK]
            found = self._ledger.rows(q.query for q in part)
            for q in part:
                yield replace(found[q.query], count=q.count)


def label_queries(
    task: Task, sources: Sources, ledger: Ledger, folder: Path, fetch: Callable[[str], Path],
    progress: Progress = quiet,
) -> Labelled:
    """Label every query of the log with the task's backend, and the gold test queries that the log does not have.

    Args:
        ledger: Replies that it has already are used, not asked for again.
        folder: For the index; an index of the same input is used again.
        fetch: Returns the folder of a model by name.

    Raises:
        InputError: Another job is labelling into the same ledger.
        BudgetSpentError: After the calls in flight have been recorded.
        ProviderError: Every call to the LLM fails alike, and less than half of the log has answers, which are in the
            ledger. Where more has, the other queries are `failed`, as a few that the provider always refuses would be.
    """
    with ledger.writing():
        backend = backend_of(task)
        log = distinct(sources.log)
        job = _job(task, sources, log, ledger, backend, folder=folder, fetch=fetch, progress=progress)
        job = replace(job, queries=_failed_last(ledger, job.queries))
        validator = make_validator(task, sources.catalogue, folder, fetch)
        compared = comparison_queries(sources, backend)
        ledger.write_rows(_skipped(task, [*log, *compared]))
        before = last_attempt(ledger)
        try:
            backend.label(job, validator, ledger)
        except ProviderError as error:
            if not _half_answered(ledger, log):
                raise
            progress.begin(f"stopped: {error}")
        done = _finish(job, log, compared, backend)
        return replace(done, missing=missing_answers(ledger, [q.query for q in job.queries], before))


def plan_labelling(
    task: Task, sources: Sources, ledger: Ledger, folder: Path, fetch: Callable[[str], Path],
    progress: Progress = quiet, *, planned: frozenset[str] = frozenset(),
) -> LabellingPlan:
    """What `label_queries` would do; makes no calls and writes nothing.

    Args:
        planned: Requests of jobs before it, whose answers it will find in the ledger.
    """
    backend = backend_of(task)
    job = _job(
        task, sources, distinct(sources.log), ledger, backend, folder=folder, fetch=fetch, progress=progress
    )
    job = replace(job, planned=planned)
    return backend.plan(job, make_validator(task, sources.catalogue, folder, fetch), ledger)


def _job(
    task: Task, sources: Sources, log: Sequence[Example], ledger: Ledger, backend: Backend, *, folder: Path,
    fetch: Callable[[str], Path], progress: Progress,
) -> LabellingJob:
    queries = [q for q in queries_to_label(task, sources, log, backend) if why_not_labelled(task, q) is None]
    known = {q.query for q in (*log, *calibration_queries(task, sources, backend))}
    compared = frozenset(q.query for q in queries if q.query not in known)
    return LabellingJob(
        task, sources, queries, ledger=ledger, folder=folder, fetch=fetch, progress=progress, compared=compared
    )


def queries_to_label(task: Task, sources: Sources, log: Sequence[Example], backend: Backend) -> list[Example]:
    """The distinct queries of the log, then the gold queries that it does not have, whose count is 0."""
    out = {q.query: q for q in log}
    for q in (*calibration_queries(task, sources, backend), *comparison_queries(sources, backend)):
        out.setdefault(q.query, q)
    return list(out.values())


def calibration_queries(task: Task, sources: Sources, backend: Backend) -> list[Example]:
    """The gold queries that confidences are calibrated on.

    None with too few rows to calibrate on: they are examples for the prompt then, and labelling them would serve no
    purpose.
    """
    calibration = distinct(sources.calibration)
    enough = len(calibration) >= task.teacher.confidence.min_rows
    return [replace(e, count=0) for e in calibration] if enough and backend.estimates_confidence else []


def comparison_queries(sources: Sources, backend: Backend) -> list[Example]:
    """The gold test queries that the log does not have, for the comparison of student and teacher."""
    if not backend.answers_any_query:
        return []
    known = {q.query for q in sources.log}
    return [replace(e, count=0) for e in distinct(sources.test_queries) if e.query not in known]


def why_not_labelled(task: Task, query: Example) -> str | None:
    """Why a query is never labelled, or None."""
    longest = task.data.max_query_chars
    if not query.query.strip():
        return "empty query"
    if has_half_character(query.query):
        return "half a character (a lone surrogate)"
    if len(query.query) > longest:
        return f"{len(query.query)} characters, more than data.max_query_chars = {longest}"
    return None


def _skipped(task: Task, log: Sequence[Example]) -> Iterator[LedgerRow]:
    """The rows of the queries that are not labelled."""
    for q in log:
        if (why := why_not_labelled(task, q)) is not None:
            yield skipped(q, why)


def _failed_last(ledger: Ledger, queries: Sequence[Example]) -> list[Example]:
    """Queries that have failed before come last: if they fail again and end the job, all others have been asked."""
    failed = {query for query, in ledger.select("SELECT query FROM rows WHERE status = 'failed'")}
    return sorted(queries, key=lambda q: q.query in failed)


def _half_answered(ledger: Ledger, log: Sequence[Example]) -> bool:
    answered = 0
    for at in range(0, len(log), _BLOCK):
        found = ledger.rows(q.query for q in log[at : at + _BLOCK])
        answered += sum(r.status != "failed" for r in found.values())
    return 2 * answered >= len(log)


def _finish(
    job: LabellingJob, log: Sequence[Example], compared: Sequence[Example], backend: Backend
) -> Labelled:
    """Calibrate on gold, then give every row its confidence and its final status."""
    ledger, task = job.ledger, job.task
    gold = gold_of(job.sources.calibration)
    known = ledger.rows(gold)
    judged = [known[q] for q in gold if q in known]
    calibration = calibrate(task, judged, gold)
    statuses: dict[str, int] = {}
    verdicts = VerdictCounts()
    job.progress.begin("confidence", len(log))
    for group in (log, compared):
        for at in range(0, len(group), _BLOCK):
            part = group[at : at + _BLOCK]
            found = ledger.rows(q.query for q in part)
            rows = [
                replace(found[q.query], count=q.count) if q.query in found
                else LedgerRow(q.query, q.count, "", "failed", (), 0.0, reason="no reply") for q in part
            ]
            rows = apply(rows, calibration, task.teacher.confidence) if backend.estimates_confidence else rows
            for row in rows if group is log else ():
                statuses[row.status] = statuses.get(row.status, 0) + 1
                verdicts.add(row.labels, row.verdicts)
            ledger.write_rows(r for r in rows if r != found.get(r.query))
            job.progress.advance(len(part))
    return Labelled(
        statuses, verdicts.rows(), ledger.spent(), calibration, obstacle(task, judged, gold), Missing(of=0), log,
        compared, ledger,
    )


def distinct(log: Sequence[Example]) -> list[Example]:
    """Each query text once, counts added."""
    out: dict[str, Example] = {}
    for q in log:
        seen = out.get(q.query)
        out[q.query] = replace(seen, count=seen.count + q.count) if seen else replace(q, labels=())
    return list(out.values())

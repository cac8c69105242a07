"""The `labels` backend: labels that were made elsewhere (`data.labels`), validated like any others."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from task.errors import InputError, warn
from task.files import sha256_json
from task.labels import Example
from task.spec import Task
from teacher.backends.computed import ComputedBackend, Replies
from teacher.backends.job import LabellingJob, LabellingPlan
from teacher.guardrails.validator import Validator, skipped
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import LedgerRow

_SHOWN = 3

# Increase this when the same file gives other labels.
VERSION = 2


class ImportedLabels(ComputedBackend):
    """Returns the imported labels. A query of the log that has none is skipped."""

    estimates_confidence = False
    answers_any_query = False

    def rules(self, task: Task) -> Mapping[str, int | str]:  # noqa: ARG002 (of the interface)
        """See `Backend`."""
        return {"imported labels": VERSION}

    def plan(self, job: LabellingJob, validator: Validator, ledger: Ledger) -> LabellingPlan:
        """See `Backend`. Raises like `label`."""
        return super().plan(_labelled(job), validator, ledger)

    def label(self, job: LabellingJob, validator: Validator, ledger: Ledger) -> None:
        """See `Backend`.

        Raises:
            InputError: No query of the log has labels, or no row of `data.labels` has any.
        """
        part = _labelled(job)
        known = {q.query for q in part.queries}
        ledger.write_rows(skipped(q, "no labels in data.labels") for q in job.queries if q.query not in known)
        super().label(part, validator, ledger)

    def keys(self, job: LabellingJob) -> dict[str, str]:
        """Query → hash of its imported labels."""
        imported = {e.query: e for e in job.sources.imported}
        return {
            q.query: sha256_json({"backend": "labels", "query": q.query, "reply": _reply(imported[q.query])})
            for q in job.queries
        }

    def replies(self, job: LabellingJob) -> Replies:
        """Looks a query up."""
        imported = {e.query: e for e in job.sources.imported}
        return lambda query: (_reply(imported[query]), {})

    def row(self, row: LedgerRow, reply: Mapping[str, Any]) -> LedgerRow:
        """Labels that a labelling job doubted stay in doubt until somebody writes another status into the table."""
        if "status" not in reply or row.status != "accepted":
            return row
        return replace(row, status=reply["status"], reason=reply["reason"])


def _labelled(job: LabellingJob) -> LabellingJob:
    """The job without the queries that have no labels; says how many these are."""
    imported = {e.query: None for e in job.sources.imported}
    if not any(e.labels for e in job.sources.imported):
        raise InputError(
            "no row has a label: there is nothing to learn from", file=job.task.data.labels, field="labels",
            expected="labels in some of the rows",
        )
    without = [q.query for q in job.queries if q.query not in imported]
    if without:
        problem = f"{len(without):,} of {len(job.queries):,} queries of data.queries have no labels in data.labels"
        found = without[:_SHOWN]
        expected = f"queries of data.labels, such as {list(itertools.islice(imported, _SHOWN))}"
        if len(without) == len(job.queries):
            raise InputError(problem, file=job.task.data.queries, field="query", found=found, expected=expected)
        warn(f"{problem}; they are skipped", file=job.task.data.queries, field="query", found=found, expected=expected)
    return replace(job, queries=[q for q in job.queries if q.query in imported])


def _reply(example: Example) -> str:
    reply: dict[str, Any] = {"labels": [x.to_json() for x in example.labels]}
    if example.doubt:
        reply |= {"status": example.doubt, "reason": example.reason}
    return json.dumps(reply, ensure_ascii=False)

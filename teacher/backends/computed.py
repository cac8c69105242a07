"""The base of backends without an LLM: a reply is computed once, recorded under a key of its input, and validated."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llm_client.attempt import Attempt
from task.spec import Task
from teacher.backends.job import LabellingJob, LabellingPlan
from teacher.guardrails.validator import TeacherAnswer, Validator
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import LedgerRow

_BLOCK = 500
Replies = Callable[[str], tuple[str, Mapping[str, Any]]]  # query → its reply as JSON, and the evidence behind it


class ComputedBackend(ABC):
    """A `teacher.backends.backend.Backend` that computes or reads its replies."""

    asks_llm = False
    local = True
    batch = False
    uses_whole_log = False
    estimates_confidence = True
    answers_any_query = True

    @abstractmethod
    def rules(self, task: Task) -> Mapping[str, int | str]:
        """See `Backend`."""

    @abstractmethod
    def keys(self, job: LabellingJob) -> dict[str, str]:
        """Query → hash of everything that its reply depends on."""

    @abstractmethod
    def replies(self, job: LabellingJob) -> Replies:
        """Computes replies; called only if the ledger lacks one."""

    def plan(self, job: LabellingJob, validator: Validator, ledger: Ledger) -> LabellingPlan:
        """See `Backend`."""
        keys = self.keys(job)
        rows = ledger.rows(keys)
        unchanged = {q for q, r in rows.items() if (r.request, r.rules) == (keys[q], validator.fingerprint)}
        changed = [q for q in keys if q not in unchanged]
        return LabellingPlan(ask=[], revalidate=changed, unchanged=len(keys) - len(changed))

    def label(self, job: LabellingJob, validator: Validator, ledger: Ledger) -> None:
        """See `Backend`."""
        keys = self.keys(job)
        missing = len(keys) - len(ledger.answered(keys.values()))
        compute = self.replies(job) if missing else None
        job.progress.begin("labelling", len(job.queries))
        backend = job.task.teacher.backend
        for at in range(0, len(job.queries), _BLOCK):
            part = job.queries[at : at + _BLOCK]
            known = {k: r.content for k, r in ledger.replies(keys[q.query] for q in part).items()}
            attempts, rows = [], []
            for q in part:
                key = keys[q.query]
                if key not in known:
                    assert compute is not None
                    known[key], evidence = compute(q.query)
                    attempts.append(Attempt(
                        request=key, query=q.query, backend=backend, model=backend, evidence=evidence, reply=known[key]
                    ))
                reply = json.loads(known[key])
                answer = TeacherAnswer(
                    query=q.query, request=key, labels=reply["labels"], signals=reply.get("signals", {})
                )
                rows.append(self.row(validator.row(q, answer), reply))
            ledger.record(attempts, rows)
            job.progress.advance(len(part))

    def row(self, row: LedgerRow, reply: Mapping[str, Any]) -> LedgerRow:  # noqa: ARG002 (for those that override it)
        """The validated row, or what a backend makes of it that knows more than the labels of its reply."""
        return row

    def context_kinds(self, task: Task) -> Sequence[str] | None:  # noqa: ARG002 (of the interface)
        """See `Backend`."""
        return None

    def with_context(self, task: Task, kinds: Sequence[str]) -> Task:  # noqa: ARG002 (of the interface)
        """See `Backend`."""
        return task

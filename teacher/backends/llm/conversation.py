"""The requests of one query, in their order, and what each reply adds to the signals of its labels.

Whether a request has to be sent is decided here for every LLM backend: one with a reply in the ledger is not sent
again (`stored_replies`), and one that depends on a reply is made from the stored one (`verify_request`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llm_client import reply as replies
from llm_client.attempt import Reply
from llm_client.client import Client
from llm_client.context import EMPTY, Context
from llm_client.logprobs import value_logprobs
from llm_client.prompt import Prompter
from llm_client.request import Request
from task.labels import Example
from task.normalize import normaliser
from task.spec import Task
from teacher.guardrails.validator import TeacherAnswer
from teacher.ledger.records import LedgerAccess
from teacher.retrieval.context import support


def is_parseable(purpose: str, content: str) -> bool:
    """Whether the answer to a request of a purpose can be parsed."""
    return replies.verdicts_of(content) is not None if purpose == "verify" else replies.rows_of(content) is not None


def stored_replies(ledger: LedgerAccess, groups: Iterable[Sequence[Request]]) -> dict[str, Reply]:
    """Request key → reply, for those requests of several queries that the ledger has a reply to."""
    return ledger.replies(r.key for group in groups for r in group)


def verify_request(prompter: Prompter, first: Request, reply: Reply | None) -> Request | None:
    """The request that has the labels of a reply checked; None if the task wants none or there are no labels.

    Args:
        first: The `label` request that was answered.
    """
    if not prompter.settings.verify or reply is None or reply.cut:
        return None
    rows = replies.rows_of(reply.content)
    return prompter.verify(first.query, rows) if rows else None


class QueryLabeller:
    """Has an LLM label queries.

    Args:
        client: None sends nothing: only replies in the ledger are used.
        ledger: Has the replies to requests that depend on other replies.
    """

    def __init__(self, task: Task, prompter: Prompter, client: Client | None, ledger: LedgerAccess) -> None:
        self._client = client
        self._ledger = ledger
        self._normalise: Callable[[str], str] = normaliser(task.normaliser)
        self.prompter = prompter

    async def label(
        self, query: Example, context: Context, requests: Sequence[Request], known: Mapping[str, Reply]
    ) -> TeacherAnswer:
        """The labels of one query, with their signals.

        Args:
            requests: From `Prompter.first`, for this query and context.
            known: Stored replies; their requests are not sent.
        """
        found = await asyncio.gather(*(self._reply(r, known) for r in requests))
        by_purpose = {r.purpose: reply for r, reply in zip(requests, found, strict=True)}
        first, main = requests[0], by_purpose["label"]
        if main is not None and main.cut:
            return TeacherAnswer(query=query.query, request=first.key, labels=None, reason=main.why_cut)
        rows = None if main is None else replies.rows_of(main.content)
        if main is None or rows is None:
            return TeacherAnswer(query=query.query, request=first.key, labels=None, reason="no usable reply")
        verdicts: list[bool] | None = None
        if (request := verify_request(self.prompter, first, main)) is not None:
            verdict = await self._reply(request, stored_replies(self._ledger, [[request]]))
            verdicts = replies.verdicts_of(verdict.content) if verdict and not verdict.cut else None
            if verdicts is not None and len(verdicts) != len(rows):  # which label each one is of is not known
                verdicts = None
        labels, whole = self._with_signals(main, rows, by_purpose, verdicts=verdicts, context=context)
        return TeacherAnswer(query=query.query, request=first.key, labels=labels, signals=whole)

    async def _reply(self, request: Request, known: Mapping[str, Reply]) -> Reply | None:
        held = known.get(request.key)
        if held is not None or self._client is None:
            return held
        repair = None
        if request.purpose != "verify" and self.prompter.settings.repair:
            def repair(answer: str) -> Request:
                return self.prompter.repair(request.query, answer=answer)
        return await self._client.ask(request, repair)

    def _with_signals(
        self, main: Reply, rows: Sequence[Mapping[str, Any]], by_purpose: Mapping[str, Reply | None], *,
        verdicts: Sequence[bool] | None, context: Context,
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """The rows of the main reply, each with its signals, and the signals of the labelling as a whole."""
        logprobs = value_logprobs(main.content, main.details.get("logprobs", ()), rows)
        samples = self._samples(by_purpose.get("samples"))
        bare_reply = by_purpose.get("bare")
        bare = None if bare_reply is None or bare_reply.cut else self._keys(bare_reply.content)
        labels = []
        for i, row in enumerate(rows):
            signals: dict[str, float] = {}
            if math.isfinite(logprobs[i]):
                signals["token probability"] = math.exp(logprobs[i])
            here = self._key(row)
            if samples:
                signals["agreement"] = sum(here in s for s in samples) / len(samples)
            if bare is not None:
                signals["bare"] = float(here in bare)
            if context is not EMPTY:
                signals["support"] = support(
                    context, role=str(row.get("role")), text=str(row.get("text")), normalise=self._normalise
                )
            if verdicts is not None:
                signals["verified"] = float(verdicts[i])
            labels.append({**row, "signals": signals})
        whole: dict[str, float] = {}
        if samples:
            own = {self._key(r) for r in rows}
            whole["agreement"] = sum(own == s for s in samples) / len(samples)
        if bare is not None:
            whole["bare"] = float({self._key(r) for r in rows} == bare)
        return labels, whole

    def _samples(self, reply: Reply | None) -> list[set[tuple[str, str]]]:
        if reply is None or reply.cut:
            return []
        found = (self._keys(c) for c in (reply.content, *reply.details.get("samples", ())))
        return [s for s in found if s is not None]

    def _keys(self, content: str) -> set[tuple[str, str]] | None:
        rows = replies.rows_of(content)
        return None if rows is None else {self._key(r) for r in rows}

    def _key(self, row: Mapping[str, Any]) -> tuple[str, str]:
        return str(row.get("role")), self._normalise(str(row.get("text")))

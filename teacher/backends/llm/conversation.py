"""One query's way through an LLM: what is asked, in which order, and what each answer adds to a label's signals."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llm_client import reply as replies
from llm_client.attempt import Reply
from llm_client.client import Client
from llm_client.context import EMPTY, Context
from llm_client.prompt import Prompter
from llm_client.request import Request
from task.labels import Example
from task.normalize import normaliser
from task.spec import Task
from teacher.guardrails.judge import Answer
from teacher.ledger.records import Book
from teacher.retrieval.context import support


def usable(purpose: str, content: str) -> bool:
    """Whether an answer can be read for its purpose."""
    return replies.verdicts_of(content) is not None if purpose == "verify" else replies.rows_of(content) is not None


class Asker:
    """Asks for a query's labels.

    Args:
        client: None asks nobody: only what the ledger holds is used.
        ledger: Looked at for requests that follow from a reply.
    """

    def __init__(self, task: Task, prompter: Prompter, client: Client | None, ledger: Book) -> None:
        self._client = client
        self._ledger = ledger
        self._normalise: Callable[[str], str] = normaliser(task.normaliser)
        self.prompter = prompter

    async def ask(
        self, query: Example, context: Context, wanted: Sequence[Request], known: Mapping[str, Reply]
    ) -> Answer:
        """The answer for one query.

        Args:
            wanted: What `Prompter.first` gave for it.
            known: Replies that are there already; their requests are not sent.
        """
        found = await asyncio.gather(*(self._reply(r, known) for r in wanted))
        by_purpose = {r.purpose: reply for r, reply in zip(wanted, found, strict=True)}
        main = by_purpose["label"]
        if main is not None and main.cut:
            return Answer(query.query, wanted[0].key, None, {}, "cut by max_tokens")
        rows = None if main is None else replies.rows_of(main.content)
        if main is None or rows is None:
            return Answer(query.query, wanted[0].key, None, {}, "no usable reply")
        verdicts: list[bool] | None = None
        if self.prompter.settings.verify and rows:
            request = self.prompter.verify(query.query, rows)
            verdict = await self._reply(request, self._ledger.replies([request.key]))
            verdicts = replies.verdicts_of(verdict.content) if verdict and not verdict.cut else None
        return self._answer(query.query, wanted[0].key, main, rows, by_purpose, verdicts, context)

    async def _reply(self, request: Request, known: Mapping[str, Reply]) -> Reply | None:
        held = known.get(request.key)
        if held is not None or self._client is None:
            return held
        repair = None
        if request.purpose != "verify" and self.prompter.settings.repair:
            def repair(answer: str) -> Request:
                return self.prompter.repair(request.query, answer)
        return await self._client.ask(request, repair)

    def _answer(
        self, query: str, key: str, main: Reply, rows: Sequence[Mapping[str, Any]],
        by_purpose: Mapping[str, Reply | None], verdicts: Sequence[bool] | None, context: Context,
    ) -> Answer:
        logprobs = replies.value_logprobs(main.content, main.details.get("logprobs", ()), rows)
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
                signals["support"] = support(context, str(row.get("role")), str(row.get("text")), self._normalise)
            if verdicts is not None and i < len(verdicts):
                signals["verified"] = float(verdicts[i])
            labels.append({**row, "signals": signals})
        whole: dict[str, float] = {}
        if samples:
            own = {self._key(r) for r in rows}
            whole["agreement"] = sum(own == s for s in samples) / len(samples)
        if bare is not None:
            whole["bare"] = float({self._key(r) for r in rows} == bare)
        return Answer(query, key, labels, whole)

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

"""The `openai` and `vllm` backends: contexts are retrieved a block ahead, many queries are labelled at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TypeVar

from llm_client import reply
from llm_client.attempt import Reply
from llm_client.budget import Budget, SpendLimiter
from llm_client.client import Client, open_session
from llm_client.context import Context
from llm_client.prompt import Prompter
from llm_client.prompt_rules import prompt_rules
from llm_client.request import Request
from task.labels import Example
from task.settings import OpenAI
from task.spec import Task
from teacher import retrieval
from teacher.backends.job import LabellingJob, LabellingPlan
from teacher.backends.llm import interruption
from teacher.backends.llm.contexts import Block, blocks_ahead
from teacher.backends.llm.conversation import QueryLabeller, is_parseable, stored_replies
from teacher.backends.llm.plan import plan_calls
from teacher.backends.llm.provider_failures import FailureWatch
from teacher.guardrails.validator import Validator
from teacher.ledger.ledger import Ledger
from teacher.ledger.recorder import GroupCommit
from teacher.ledger.records import LedgerRow
from teacher.retrieval import context

_ROWS_PER_WRITE = 200
_Found = TypeVar("_Found")
Work = tuple[Example, Context, Sequence[Request], Mapping[str, Reply]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The endpoint of the calls.

    Attributes:
        address: Returns the base URL, if it is not known before the first call.
    """

    settings: OpenAI
    address: Callable[[], str] | None = None


class LLMBackend:
    """The base of `openai`, `openai-batch` and `vllm`: prompts with retrieved context."""

    asks_llm = True
    local = False
    batch = False
    uses_whole_log = False
    estimates_confidence = True
    answers_any_query = True

    def rules(self, task: Task) -> Mapping[str, int | str]:
        """See `teacher.backends.backend.Backend`."""
        settings = task.teacher.openai
        shown = {"context": context.VERSION, "retrieval": retrieval.VERSION} if settings.context else {}
        return {"answer parser": reply.VERSION, **shown, **prompt_rules(settings)}

    def endpoint(self, job: LabellingJob) -> AbstractContextManager[Endpoint]:
        """The endpoint of the job, for as long as it is needed."""
        return contextlib.nullcontext(Endpoint(job.task.teacher.openai))

    def plan(self, job: LabellingJob, validator: Validator, ledger: Ledger) -> LabellingPlan:
        """See `teacher.backends.backend.Backend`."""
        with self.endpoint(job) as endpoint:
            return plan_calls(job, validator, ledger, endpoint.settings, batch=self.batch)

    def context_kinds(self, task: Task) -> Sequence[str]:
        """See `teacher.backends.backend.Backend`."""
        return task.teacher.openai.context

    def with_context(self, task: Task, kinds: Sequence[str]) -> Task:
        """See `teacher.backends.backend.Backend`."""
        openai = task.teacher.openai.model_copy(update={"context": tuple(kinds)})
        return task.model_copy(update={"teacher": task.teacher.model_copy(update={"openai": openai})})


class OpenAIBackend(LLMBackend):
    """An OpenAI-compatible endpoint."""

    def label(self, job: LabellingJob, validator: Validator, ledger: Ledger) -> None:  # noqa: ARG002 (of the interface)
        """See `teacher.backends.backend.Backend`; raises what `label_online` raises."""
        with self.endpoint(job) as endpoint:
            label_online(job, validator, endpoint, lambda _: None)


class VllmBackend(OpenAIBackend):
    """A local model that vLLM serves."""

    local = True

    @contextlib.contextmanager
    def endpoint(self, job: LabellingJob) -> Iterator[Endpoint]:
        """The endpoint of an engine that starts with the first call."""
        from teacher.backends.llm.local_model import LocalTeacher

        with LocalTeacher(job.task, job.fetch, job.folder / "teacher.log") as model:
            yield Endpoint(model.settings(), model.url)


ONLINE: Mapping[str, OpenAIBackend] = {"openai": OpenAIBackend(), "vllm": VllmBackend()}


def label_online(
    job: LabellingJob, validator: Validator, endpoint: Endpoint, done: Callable[[LedgerRow], None]
) -> None:
    """Label every query of the job, from stored replies where there are any.

    Args:
        done: Called with every row; all rows are also written to the ledger.

    Raises:
        BudgetSpentError: After the calls in flight have come back and been recorded.
        ProviderError: Every call fails alike.
        KeyboardInterrupt: Stopped, as `interruption` says.
    """
    interruption.run(_label(job, validator, endpoint, done))


@contextlib.asynccontextmanager
async def open_client(
    job: LabellingJob, endpoint: Endpoint
) -> AsyncIterator[tuple[Client, FailureWatch, SpendLimiter]]:
    """A client for the job's calls, the recorder of its attempts and its budget.

    At exit the calls in flight have come back, also those of a job that was stopped, and all records are on disk.
    """
    commits = GroupCommit(job.ledger)
    settings = endpoint.settings
    spent = job.ledger.spent()
    limiter = job.limiter or Budget(settings.budget, spent["cost"])
    recorder = FailureWatch(commits, settings, answered=spent["completion_tokens"] > 0)
    async with open_session(settings, **{"Content-Type": "application/json"}) as session:
        client = Client(
            session, settings, recorder, parseable=is_parseable, limiter=limiter, backend=job.task.teacher.backend,
            address=endpoint.address,
        )
        try:
            yield client, recorder, limiter
        finally:
            try:
                await client.finish(lambda calls: job.progress.begin(_waiting_for(calls), calls))
            finally:
                await commits.flush()


def _waiting_for(calls: int) -> str:
    return f"stopping: waiting for {calls:,} call{'' if calls == 1 else 's'} in flight; Ctrl-C again stops at once"


async def _label(
    job: LabellingJob, validator: Validator, endpoint: Endpoint, done: Callable[[LedgerRow], None]
) -> None:
    settings = endpoint.settings
    queue: asyncio.Queue[Work | None] = asyncio.Queue(2 * settings.concurrency)
    rows: list[LedgerRow] = []
    failures: list[BaseException] = []
    stopped = asyncio.Event()
    async with open_client(job, endpoint) as (client, recorder, limiter):
        labeller = QueryLabeller(job.task, Prompter(job.task, settings), client, job.ledger)

        async def worker() -> None:
            while (item := await queue.get()) is not None:
                if stopped.is_set():
                    continue
                query, context, requests, known = item
                try:
                    async with recorder.asking() as before:
                        answer = await labeller.label(query, context, requests, known)
                        why = recorder.gave_up(answer.request, before) if answer.labels is None else None
                    if why is not None:
                        answer = replace(answer, reason=f"{answer.reason}: {why}")
                    row = validator.row(query, answer)
                    rows.append(row)
                    done(row)
                    spent = f"{limiter.spent:.2f} spent" if isinstance(limiter, Budget) and client.price else ""
                    job.progress.advance(note=spent)
                    if len(rows) >= _ROWS_PER_WRITE:
                        part = rows[:]
                        rows.clear()
                        await recorder.record([], part)
                except Exception as error:  # noqa: BLE001 (stops the job; raised once all workers have finished)
                    failures.append(error)
                    stopped.set()

        workers = [asyncio.create_task(worker()) for _ in range(2 * settings.concurrency)]
        try:
            async for block in blocks_ahead(job, f"asking {settings.model}"):
                if stopped.is_set():
                    break
                requests, known = await asyncio.to_thread(_requests, job, labeller.prompter, block)
                pairs = list(zip(block, requests, strict=True))
                for (query, context), group in by_prefix(pairs) if endpoint.address else pairs:
                    await queue.put((query, context, group, known))
            for _ in workers:
                await queue.put(None)
            await asyncio.gather(*workers)
        finally:
            for w in workers:
                w.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            with contextlib.suppress(Exception):
                await recorder.record([], rows)
    if failures:
        raise failures[0]


def by_prefix(pairs: Iterable[tuple[_Found, Sequence[Request]]]) -> list[tuple[_Found, Sequence[Request]]]:
    """Queries in the order of their prompts, so that those with a long common prefix follow one another.

    An engine keeps the keys and values of recent prompts only; a prefix that comes again after many other prompts is
    computed again.
    """
    return sorted(pairs, key=lambda pair: pair[1][0].content)


def _requests(job: LabellingJob, prompter: Prompter, block: Block) -> tuple[list[list[Request]], Mapping[str, Reply]]:
    """The first requests of a block's queries, and the stored replies to them."""
    requests = [prompter.first(query.query, context) for query, context in block]
    return requests, stored_replies(job.ledger, requests)

"""The LLM backends: contexts are found a block ahead, queries are asked many at a time, rows settle as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import uvloop

from llm_client.attempt import Reply
from llm_client.budget import Budget
from llm_client.client import Client
from llm_client.context import Context
from llm_client.prices import price_of
from llm_client.prompt import Prompter
from llm_client.reply import rows_of
from llm_client.request import Request
from task.labels import Example
from task.settings import OpenAI
from teacher.backends.job import Job, Plan
from teacher.backends.llm.conversation import Asker, usable
from teacher.guardrails.checks import judges_relevance
from teacher.guardrails.judge import Judge
from teacher.ledger.recorder import GroupCommit
from teacher.ledger.records import LedgerRow
from teacher.retrieval.context import ContextFinder
from teacher.retrieval.embedding_store import EmbeddingStore
from teacher.retrieval.index import Index, build_index

_SETTLE = 200
_LIKELY_ANSWER_TOKENS = 16  # for each role of the task, where nothing was answered yet
Block = list[tuple[Example, Context]]
Work = tuple[Example, Context, Sequence[Request], Mapping[str, Reply]]


def label(job: Job, judge: Judge, done: Callable[[LedgerRow], None]) -> None:
    """Ask for every query of the job, or use what the ledger holds; every row goes to the ledger and to `done`.

    Raises:
        BudgetSpentError: After the calls that were on their way have come back and been recorded.
    """
    with endpoint(job) as (settings, address):
        uvloop.run(_label(job, judge, done, settings, address))


@contextlib.contextmanager
def endpoint(job: Job) -> Iterator[tuple[OpenAI, Callable[[], str] | None]]:
    """Settings and address of who is asked: the task's endpoint, or a local model."""
    if job.task.teacher.backend != "vllm":
        yield job.task.teacher.openai, None
        return
    from teacher.backends.llm.local_model import LocalTeacher

    with LocalTeacher(job.task, job.fetch, job.folder / "teacher.log") as local:
        yield local.settings(), local.url


async def _label(
    job: Job, judge: Judge, done: Callable[[LedgerRow], None], settings: OpenAI, address: Callable[[], str] | None
) -> None:
    recorder = GroupCommit(job.ledger)
    purse = job.purse or Budget(settings.budget, job.ledger.spent()["cost"])
    queue: asyncio.Queue[Work | None] = asyncio.Queue(2 * settings.concurrency)
    rows: list[LedgerRow] = []
    failures: list[BaseException] = []
    stopped = asyncio.Event()
    job.progress.begin(f"asking {settings.model}", len(job.queries))
    async with Client(settings, recorder, usable, purse, job.task.teacher.backend, address) as client:
        asker = Asker(job.task, Prompter(job.task, settings), client, job.ledger)

        async def worker() -> None:
            while (item := await queue.get()) is not None:
                if stopped.is_set():
                    continue
                query, context, requests, known = item
                try:
                    row = judge.row(query, await asker.ask(query, context, requests, known))
                    rows.append(row)
                    done(row)
                    spent = f"{purse.spent:.2f} spent" if isinstance(purse, Budget) and client.price else ""
                    job.progress.advance(note=spent)
                    if len(rows) >= _SETTLE:
                        part = rows[:]
                        rows.clear()
                        await recorder.record([], part)
                except Exception as error:  # noqa: BLE001 (stops the job; told once everybody has come home)
                    failures.append(error)
                    stopped.set()

        workers = [asyncio.create_task(worker()) for _ in range(2 * settings.concurrency)]
        try:
            async for block in blocks(job):
                if stopped.is_set():
                    break
                requests, known = await asyncio.to_thread(_requests, job, asker.prompter, block)
                for (query, context), wanted in zip(block, requests, strict=True):
                    await queue.put((query, context, wanted, known))
            for _ in workers:
                await queue.put(None)
            await asyncio.gather(*workers)
        finally:
            for w in workers:
                w.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            with contextlib.suppress(Exception):
                await recorder.record([], rows)
            await recorder.flush()
    if failures:
        raise failures[0]


async def blocks(job: Job) -> AsyncIterator[Block]:
    """Blocks of queries with their contexts; while one is asked about, the next is being found in a thread."""
    found = contexts(job)
    ahead = asyncio.create_task(asyncio.to_thread(next, found, None))
    try:
        while (block := await ahead) is not None:
            ahead = asyncio.create_task(asyncio.to_thread(next, found, None))
            yield block
    finally:
        with contextlib.suppress(BaseException):
            await ahead


def contexts(job: Job) -> Iterator[Block]:
    """The job's queries with their contexts, in blocks."""
    at = 0
    for found in (job.finder or make_finder(job)).find(job.queries):
        yield list(zip(job.queries[at : at + len(found)], found, strict=True))
        at += len(found)


def make_finder(job: Job) -> ContextFinder:
    """Finds the contexts of the job's task; builds the index, or opens the one in the job's folder."""
    return open_finder(job, make_index(job), embedder_of(job))


def make_index(job: Job) -> Path | None:
    """The folder of the job's index, built if need be; None where there is nothing to search."""
    model = embedder_of(job)
    sources = job.sources
    if model is None or not _searches(job):
        return None
    return build_index(sources.catalogue, sources.conversions, model, job.folder, job.progress)


def open_finder(job: Job, index: Path | None, model: Path | None, *, shared: bool = False) -> ContextFinder:
    """Finds contexts in an index that is there.

    Args:
        shared: Leave the embeddings on disk as they are: somebody else writes them.
    """
    opened = None if index is None else Index(index)
    store = None if model is None else EmbeddingStore(job.folder, model, job.progress, shared=shared)
    return ContextFinder(job.task, job.sources.calibration, job.sources.held_out, opened, store)


def embedder_of(job: Job) -> Path | None:
    """The folder of the embedder, or None where nothing is to be embedded."""
    wanted = _searches(job) or judges_relevance(job.task)
    return job.fetch(job.task.teacher.retrieval.embedder) if wanted else None


def _searches(job: Job) -> bool:
    """Whether a context can hold anything."""
    sources, openai = job.sources, job.task.teacher.openai
    return bool(openai.context and (sources.catalogue or (sources.calibration and openai.few_shot)))


def _requests(job: Job, prompter: Prompter, block: Block) -> tuple[list[list[Request]], Mapping[str, Reply]]:
    """The first requests of a block's queries, and the replies that the ledger holds for them."""
    requests = [prompter.first(query.query, context) for query, context in block]
    return requests, job.ledger.replies(r.key for group in requests for r in group)


def plan(job: Job, judge: Judge) -> Plan:
    """What `label` would ask, judge again, and leave alone; asks nobody."""
    with endpoint(job) as (settings, _):
        prompter = Prompter(job.task, settings)
    ask: list[str] = []
    again: list[str] = []
    why: dict[str, int] = {}
    stand = calls = tokens_in = 0
    job.progress.begin("comparing with the ledger", len(job.queries))
    for block in contexts(job):
        requests = [prompter.first(query.query, context) for query, context in block]
        if settings.verify:
            requests = _with_verify(job, prompter, requests)
        asked = job.ledger.asked(r.key for group in requests for r in group)
        rows = job.ledger.rows(query.query for query, _ in block)
        for (query, _), group in zip(block, requests, strict=True):
            missing = [r for r in group if r.key not in asked]
            row = rows.get(query.query)
            if missing:
                ask.append(query.query)
                calls += len(missing) + (settings.verify and group[0] in missing)
                tokens_in += sum(_likely(r) for r in missing)
                reason = _why(row, missing, group)
                why[reason] = why.get(reason, 0) + 1
            elif row is None or row.judged != judge.fingerprint or row.request != group[0].key:
                again.append(query.query)
            else:
                stand += 1
        job.progress.advance(len(block))
    tokens_out = calls * min(settings.max_tokens, _LIKELY_ANSWER_TOKENS * len(job.task.roles))
    price = price_of(settings, batch=job.task.teacher.backend == "openai-batch")
    cost = None if price is None else price.of(tokens_in, 0, tokens_out)
    return Plan(ask, again, stand, calls, (tokens_in, tokens_out), cost, why)


def _with_verify(job: Job, prompter: Prompter, requests: Sequence[list[Request]]) -> list[list[Request]]:
    """The requests of each query with the one that checks its labels, where those are known already."""
    known = job.ledger.replies(group[0].key for group in requests)
    out = []
    for group in requests:
        held = known.get(group[0].key)
        rows = rows_of(held.content) if held and not held.cut else None
        out.append([*group, prompter.verify(group[0].query, rows)] if rows else group)
    return out


def _why(row: LedgerRow | None, missing: Sequence[Request], group: Sequence[Request]) -> str:
    if row is None:
        return "new"
    if row.status == "failed":
        return "failed before"
    return "its request changed" if len(missing) == len(group) else "another signal is wanted"


def _likely(request: Request) -> int:
    return request.most_tokens[0] // 4

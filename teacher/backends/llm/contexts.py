"""The retrieved contexts of a job's queries, in blocks, and the index that they are retrieved from."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from llm_client.context import Context
from task.labels import Example
from task.spec import Task
from teacher.backends.job import LabellingJob, Sources
from teacher.guardrails.label_checks import checks_relevance
from teacher.retrieval.context import ContextFinder
from teacher.retrieval.embedding_store import EmbeddingStore
from teacher.retrieval.index import Index, build_index

Block = list[tuple[Example, Context]]


async def blocks_ahead(job: LabellingJob, phase: str) -> AsyncIterator[Block]:
    """Blocks of queries with their contexts; while one is in use, the next is retrieved in a thread.

    Args:
        phase: Of the progress, which begins with the first block: until then it shows what is embedded for the index.
    """
    found = blocks(job)
    ahead = asyncio.create_task(asyncio.to_thread(next, found, None))
    begun = False
    try:
        while (block := await ahead) is not None:
            if not begun:
                job.progress.begin(phase, len(job.queries))
                begun = True
            ahead = asyncio.create_task(asyncio.to_thread(next, found, None))
            yield block
    finally:
        with contextlib.suppress(BaseException):
            await ahead


def blocks(job: LabellingJob) -> Iterator[Block]:
    """The job's queries with their contexts, in blocks."""
    at = 0
    finder = job.finder or open_finder(job, index=make_index(job), model=embedder_of(job))
    for found in finder.find(job.queries):
        yield list(zip(job.queries[at : at + len(found)], found, strict=True))
        at += len(found)


def make_index(job: LabellingJob) -> Path | None:
    """The folder of the job's index, built if it is missing; None if there is nothing to search."""
    model = embedder_of(job)
    sources = job.sources
    if model is None or not searches(job.task, job.sources):
        return None
    return build_index(
        sources.catalogue, sources.conversions, model=model, folder=job.folder, progress=job.progress
    )


def open_finder(job: LabellingJob, *, index: Path | None, model: Path | None, shared: bool = False) -> ContextFinder:
    """Opens the context finder of an index.

    Args:
        shared: Leave the embeddings on disk as they are: another process writes them.
    """
    opened = None if index is None else Index(index)
    store = None
    if model is not None:
        store = EmbeddingStore(job.folder, model=model, progress=job.progress, shared=shared)
    return ContextFinder(job.task, job.sources.calibration, job.sources.held_out, opened, store)


def embedder_of(job: LabellingJob) -> Path | None:
    """The folder of the embedder, or None if nothing is to be embedded."""
    wanted = searches(job.task, job.sources) or checks_relevance(job.task)
    return job.fetch(job.task.teacher.retrieval.embedder) if wanted else None


def searches(task: Task, sources: Sources) -> bool:
    """Whether there is anything to retrieve for a context."""
    openai = task.teacher.openai
    candidates = "similar" in openai.context and any(r.shortlisted for r in task.roles)
    return bool(openai.context and (sources.catalogue or candidates or (sources.calibration and openai.few_shot)))

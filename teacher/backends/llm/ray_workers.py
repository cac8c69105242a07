"""The `openai` and `vllm` backends on Ray Data workers: each labels blocks of queries, one actor owns the ledger.

A worker of `vllm` has its own engine, on a GPU of its own where the cluster has GPUs, and labels queries that are near
one another in the alphabet: their prompts have more in common, which the engine computes once.

A worker records every reply through the owner before it uses it, so a worker that dies loses only its calls in flight;
Ray gives its block to another worker, which finds the recorded replies in the ledger. The index is built once, before
the workers start, in a folder that all of them can read.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_client.attempt import Attempt, Reply
from llm_client.budget import Budget, raise_if_spent
from task.errors import InputError
from task.labels import Example
from task.progress import quiet
from task.ray_start import ray_running
from task.spec import Task
from teacher.backends.job import LabellingJob, Sources
from teacher.backends.llm.contexts import embedder_of, make_index, open_finder
from teacher.backends.llm.local_model import LocalTeacher
from teacher.backends.llm.online import Endpoint, LLMBackend, VllmBackend, label_online
from teacher.backends.llm.provider_failures import ProviderError
from teacher.guardrails.validator import Validator, make_validator
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import LedgerRow
from teacher.retrieval.index import Index

_BLOCK = 256
_ASK_AGAIN_S = 0.05  # for a part of the budget, while calls of this or another worker are in flight


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What every worker gets once."""

    task: Task
    sources: Sources
    folder: Path
    index: Path | None
    model: Path | None
    teacher: Path | None


class LedgerOwner:
    """An actor with the ledger and the budget in it; its calls come one at a time."""

    def __init__(self, path: Path, limit: float | None) -> None:
        self._ledger = Ledger(path)
        self._budget = Budget(limit, self._ledger.spent()["cost"])

    def replies(self, requests: list[str]) -> dict[str, Reply]:
        """See `Ledger.replies`."""
        return self._ledger.replies(requests)

    def answered(self, requests: list[str]) -> set[str]:
        """See `Ledger.answered`."""
        return self._ledger.answered(requests)

    def rows(self, queries: list[str]) -> dict[str, LedgerRow]:
        """See `Ledger.rows`."""
        return self._ledger.rows(queries)

    def record(self, attempts: Sequence[Attempt], rows: Sequence[LedgerRow]) -> None:
        """See `Ledger.record`."""
        self._ledger.record(attempts, rows)

    def spent(self) -> dict[str, float]:
        """See `Ledger.spent`."""
        return self._ledger.spent()

    def try_reserve(self, amount: float) -> tuple[str | None, bool]:
        """See `Budget.try_reserve` and `Budget.may_wait`."""
        return self._budget.try_reserve(amount), self._budget.may_wait(amount)

    def charge(self, reserved: float, cost: float) -> None:
        """See `Budget.charge`."""
        self._budget.charge(reserved=reserved, cost=cost)


class _RemoteLedger:
    """The owner's ledger, as the `LedgerAccess` of a worker."""

    def __init__(self, owner: Any) -> None:
        import ray

        self._owner, self._get = owner, ray.get

    def replies(self, requests: Iterable[str]) -> dict[str, Reply]:
        return dict(self._get(self._owner.replies.remote(list(requests))))

    def answered(self, requests: Iterable[str]) -> set[str]:
        return set(self._get(self._owner.answered.remote(list(requests))))

    def rows(self, queries: Iterable[str]) -> dict[str, LedgerRow]:
        return dict(self._get(self._owner.rows.remote(list(queries))))

    def record(self, attempts: Sequence[Attempt], rows: Sequence[LedgerRow] = ()) -> None:
        self._get(self._owner.record.remote(list(attempts), list(rows)))

    def write_rows(self, rows: Iterable[LedgerRow]) -> None:
        self.record([], list(rows))

    def spent(self) -> dict[str, float]:
        return dict(self._get(self._owner.spent.remote()))


class _RemoteLimiter:
    """The owner's budget, as the `SpendLimiter` of a worker's client."""

    def __init__(self, owner: Any, patience_s: float) -> None:
        self._owner, self._patience_s = owner, patience_s

    async def reserve(self, amount: float) -> None:
        ends = time.monotonic() + self._patience_s  # calls of a worker that was killed never come back
        while True:
            problem, may_wait = await self._owner.try_reserve.remote(amount)
            if problem is None:
                return
            if not may_wait or time.monotonic() > ends:
                raise_if_spent(problem)
            await asyncio.sleep(_ASK_AGAIN_S)

    def charge(self, *, reserved: float, cost: float) -> None:
        self._owner.charge.remote(reserved=reserved, cost=cost)


class LabelBlock:
    """A Ray Data worker: labels blocks of queries; index and prompt are opened once."""

    def __init__(self, work: _Work, owner: Any) -> None:
        settings = work.task.teacher
        fetch = functools.partial(_given, {settings.retrieval.embedder: work.model, settings.vllm.model: work.teacher})
        self._validator = make_validator(work.task, work.sources.catalogue, work.folder, fetch, shared=True)
        limited = settings.openai.budget and work.teacher is None
        limiter = _RemoteLimiter(owner, settings.openai.deadline_s) if limited else None
        job = LabellingJob(
            work.task, work.sources, (), ledger=_RemoteLedger(owner), folder=work.folder, fetch=fetch, progress=quiet,
            limiter=limiter,
        )
        self._endpoint = Endpoint(settings.openai)
        if work.teacher is not None:
            log = work.folder / f"teacher-{os.getpid()}.log"
            engine = LocalTeacher(work.task, fetch, log, engines=settings.workers)
            self._endpoint = Endpoint(engine.settings(), engine.url)
        self._job = replace(job, finder=open_finder(job, index=work.index, model=work.model, shared=True))

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Label a block.

        Args:
            batch: Columns `query` and `count`.

        Returns:
            Columns `status`, `problem` and `refused`: an error that the user can act on, such as a spent budget, and
            whether it is a `ProviderError`. It is returned as text because Ray wraps exceptions and loses their type.
        """
        queries = [Example(str(q), (), int(n)) for q, n in zip(batch["query"], batch["count"], strict=True)]
        found: dict[str, str] = {}

        def done(row: LedgerRow) -> None:
            found[row.query] = row.status

        problem, refused = "", False
        try:
            label_online(replace(self._job, queries=queries), self._validator, self._endpoint, done)
        except (InputError, ProviderError) as error:
            problem, refused = str(error), isinstance(error, ProviderError)
        count = len(queries)
        status = [found.get(q.query, "") for q in queries]
        return {"status": status, "problem": [problem] * count, "refused": [refused] * count}


class RayWorkersBackend(LLMBackend):
    """`openai` on `teacher.workers` Ray Data workers."""

    def label(self, job: LabellingJob, validator: Validator, ledger: Ledger) -> None:  # noqa: ARG002 (each worker makes its own)
        """See `teacher.backends.backend.Backend`."""
        _label(job, ledger, teacher=None)


class RayEnginesBackend(VllmBackend):
    """`vllm` with `teacher.workers` engines, one in each Ray Data worker."""

    def label(self, job: LabellingJob, validator: Validator, ledger: Ledger) -> None:  # noqa: ARG002 (each worker makes its own)
        """See `teacher.backends.backend.Backend`."""
        _label(job, ledger, teacher=job.fetch(job.task.teacher.vllm.model).resolve())


def _label(job: LabellingJob, ledger: Ledger, *, teacher: Path | None) -> None:
    """Label on the workers; with the folder of a `teacher`, each starts an engine with the first query."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    settings = job.task.teacher
    job.progress.begin("building the index")
    index = make_index(job)
    index = None if index is None else index.resolve()
    model = embedder_of(job)
    open_finder(job, index=index, model=model)  # embeds gold rows and catalogue values before the workers start
    with contextlib.nullcontext() if ray.is_initialized() else ray_running(
        settings.ray_address, field="teacher.ray_address", log_to_driver=False, include_dashboard=False,
        variables={"RAY_worker_niceness": "0"},  # the default, 15, yields to all other processes
    ):
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        owner = ray.remote(num_cpus=0, scheduling_strategy=here)(LedgerOwner).remote(
            ledger.path.resolve(), settings.openai.budget
        )
        work = _Work(
            task=_with_absolute_prompt(job.task), sources=_sent(job.sources, index), folder=job.folder.resolve(),
            index=index, model=model, teacher=teacher,
        )
        queries = job.queries if teacher is None else sorted(job.queries, key=lambda q: q.query)
        size = max(1, min(_BLOCK, -(-len(queries) // settings.workers)))  # a block for every worker
        rows = ray.data.from_items(
            [{"query": q.query, "count": q.count} for q in queries],
            override_num_blocks=max(1, -(-len(queries) // size)),
        )
        # Workers mostly wait for answers, and must leave CPUs for Ray Data's own tasks.
        results = rows.map_batches(
            LabelBlock, fn_constructor_args=(work, owner), batch_size=size, num_cpus=0.5,
            compute=ray.data.ActorPoolStrategy(size=settings.workers),
            num_gpus=1 if teacher is not None and ray.cluster_resources().get("GPU") else None,
        )
        name = settings.openai.model if teacher is None else settings.vllm.model
        job.progress.begin(f"asking {name} on {settings.workers} workers", len(queries))
        for part in results.iter_batches(batch_size=None):
            for problem, refused in zip(part["problem"], part["refused"], strict=True):
                if problem:
                    raise ProviderError(str(problem)) if refused else InputError(str(problem))
            job.progress.advance(len(part["status"]))
        ray.kill(owner)


def _with_absolute_prompt(task: Task) -> Task:
    """The task as a worker reads it, which may run in another directory."""
    openai = task.teacher.openai
    prompt = None if openai.prompt is None else str(Path(openai.prompt).resolve())
    teacher = task.teacher.model_copy(update={"openai": openai.model_copy(update={"prompt": prompt})})
    return task.model_copy(update={"teacher": teacher})


def _sent(sources: Sources, index: Path | None) -> Sources:
    """The sources that a worker needs; tables that the index holds are sent as paths."""
    sent = replace(sources, log=())
    return sent if index is None else replace(sent, conversions=(), catalogue=Index(index).items)


def _given(folders: Mapping[str, Path | None], name: str) -> Path:
    """A model's folder, which the driver fetched."""
    folder = folders.get(name)
    if folder is None:
        raise RuntimeError(f"the driver did not fetch {name}")
    return folder

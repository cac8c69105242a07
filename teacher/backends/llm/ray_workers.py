"""The same labelling on Ray Data workers: each asks and judges blocks of queries, one actor owns the ledger.

A worker records every reply through the owner before it uses it, so a worker that dies loses what was on its way and
nothing else; Ray gives its block to another, which finds the replies in the ledger. The index is built once, before the
workers start, in a folder that all of them see.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_client.attempt import Attempt, Reply
from llm_client.budget import Budget, check
from task.errors import InputError
from task.labels import Example
from task.progress import quiet
from task.spec import Task
from teacher.backends.job import Job, Sources
from teacher.guardrails.judge import make_judge
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import LedgerRow
from teacher.retrieval.index import Index

_BLOCK = 256


@dataclass(frozen=True, slots=True)
class _Work:
    """What every worker is sent once."""

    task: Task
    sources: Sources
    folder: Path
    index: Path | None
    model: Path | None


class LedgerOwner:
    """An actor with the ledger and the budget in it; its calls come one at a time."""

    def __init__(self, path: Path, limit: float | None) -> None:
        self._ledger = Ledger(path)
        self._budget = Budget(limit, self._ledger.spent()["cost"])

    def replies(self, requests: list[str]) -> dict[str, Reply]:
        """See `Ledger.replies`."""
        return self._ledger.replies(requests)

    def asked(self, requests: list[str]) -> set[str]:
        """See `Ledger.asked`."""
        return self._ledger.asked(requests)

    def rows(self, queries: list[str]) -> dict[str, LedgerRow]:
        """See `Ledger.rows`."""
        return self._ledger.rows(queries)

    def record(self, attempts: Sequence[Attempt], rows: Sequence[LedgerRow]) -> None:
        """See `Ledger.record`."""
        self._ledger.record(attempts, rows)

    def spent(self) -> dict[str, float]:
        """See `Ledger.spent`."""
        return self._ledger.spent()

    def reserve(self, most: float) -> str | None:
        """See `Budget.take`."""
        return self._budget.take(most)

    def paid(self, most: float, cost: float) -> None:
        """See `Budget.settle`."""
        self._budget.settle(most, cost)


class _RemoteLedger:
    """The owner as a `teacher.ledger.Book`, for a worker."""

    def __init__(self, owner: Any) -> None:
        import ray

        self._owner, self._get = owner, ray.get

    def replies(self, requests: Iterable[str]) -> dict[str, Reply]:
        return dict(self._get(self._owner.replies.remote(list(requests))))

    def asked(self, requests: Iterable[str]) -> set[str]:
        return set(self._get(self._owner.asked.remote(list(requests))))

    def rows(self, queries: Iterable[str]) -> dict[str, LedgerRow]:
        return dict(self._get(self._owner.rows.remote(list(queries))))

    def record(self, attempts: Sequence[Attempt], rows: Sequence[LedgerRow] = ()) -> None:
        self._get(self._owner.record.remote(list(attempts), list(rows)))

    def settle(self, rows: Iterable[LedgerRow]) -> None:
        self.record([], list(rows))

    def spent(self) -> dict[str, float]:
        return dict(self._get(self._owner.spent.remote()))


class _RemotePurse:
    """The owner's budget, for a worker's client."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    async def reserve(self, most: float) -> None:
        check(await self._owner.reserve.remote(most))

    def settle(self, most: float, cost: float) -> None:
        self._owner.paid.remote(most, cost)


class LabelBlock:
    """A Ray Data worker: labels blocks of queries; index and prompt are opened once."""

    def __init__(self, work: _Work, owner: Any) -> None:
        from teacher.backends.llm.backend import open_finder

        fetch = functools.partial(_given, work.model)
        self._judge = make_judge(work.task, work.sources.catalogue, work.folder, fetch, shared=True)
        purse = _RemotePurse(owner) if work.task.teacher.openai.budget else None
        job = Job(work.task, work.sources, (), _RemoteLedger(owner), work.folder, fetch, quiet, purse=purse)
        self._job = replace(job, finder=open_finder(job, work.index, work.model, shared=True))

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """Label a block.

        Args:
            batch: Columns `query` and `count`.

        Returns:
            Columns `status` and `problem`: an error that a person can act on, such as a spent budget. It goes as text,
            for Ray wraps exceptions and loses what they were.
        """
        from teacher.backends.llm import backend as backend_llm

        queries = [Example(str(q), (), int(n)) for q, n in zip(batch["query"], batch["count"], strict=True)]
        found: dict[str, str] = {}

        def done(row: LedgerRow) -> None:
            found[row.query] = row.status

        problem = ""
        try:
            backend_llm.label(replace(self._job, queries=queries), self._judge, done)
        except InputError as error:
            problem = str(error)
        return {"status": [found.get(q.query, "") for q in queries], "problem": [problem] * len(queries)}


def label(job: Job, ledger: Ledger) -> None:
    """Label the job's queries on `teacher.workers` Ray Data workers."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from teacher.backends.llm.backend import embedder_of, make_index, open_finder

    settings = job.task.teacher
    job.progress.begin("building the index")
    index = make_index(job)
    index = None if index is None else index.resolve()
    model = embedder_of(job)
    open_finder(job, index, model)  # embeds gold rows and values, so that no worker has to
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(
            address=settings.ray_address, log_to_driver=False, include_dashboard=False,
            runtime_env={"env_vars": {"RAY_worker_niceness": "0"}},  # Ray's own is 15: behind all else on a node
        )
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        owner = ray.remote(num_cpus=0, scheduling_strategy=here)(LedgerOwner).remote(
            ledger.path.resolve(), settings.openai.budget
        )
        work = _Work(job.task, _sent(job.sources, index), job.folder.resolve(), index, model)
        rows = ray.data.from_items(
            [{"query": q.query, "count": q.count} for q in job.queries],
            override_num_blocks=max(1, -(-len(job.queries) // _BLOCK)),
        )
        # Workers wait for answers more than they work, and must leave room for Ray Data's own tasks.
        blocks = rows.map_batches(
            LabelBlock, fn_constructor_args=(work, owner), batch_size=_BLOCK, num_cpus=0.5,
            compute=ray.data.ActorPoolStrategy(size=settings.workers),
        )
        job.progress.begin(f"asking {settings.openai.model} on {settings.workers} workers", len(job.queries))
        for part in blocks.iter_batches(batch_size=None):
            for problem in part["problem"]:
                if problem:
                    raise InputError(str(problem))
            job.progress.advance(len(part["status"]))
        ray.kill(owner)
    finally:
        if started_here:
            ray.shutdown()


def _sent(sources: Sources, index: Path | None) -> Sources:
    """What a worker needs of the tables: of those in the index, where they are."""
    sent = replace(sources, log=())
    return sent if index is None else replace(sent, conversions=(), catalogue=Index(index).items)


def _given(model: Path | None, name: str) -> Path:
    """The model's folder, which the driver has fetched."""
    if model is None:
        raise RuntimeError(f"nobody fetched {name}")
    return model

"""The input of a labelling job, for every backend, and the plan of the job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from llm_client.budget import SpendLimiter
from task.labels import Example
from task.progress import Progress
from task.readers import Conversion, Item
from task.spec import Task
from teacher.ledger.records import LedgerAccess
from teacher.retrieval.context import ContextFinder


@dataclass(frozen=True, slots=True)
class Sources:
    """The data that a teacher may use: never the labels of the gold test rows.

    Attributes:
        imported: Labels that the `labels` backend returns.
        calibration: Gold rows for few-shot examples and for the calibration of confidences.
        held_out: Calibration queries that are near-duplicates of a gold test query; never shown as examples.
        test_queries: The gold test queries without their labels: the teacher labels them too, so that the student can
            be compared with it. Nothing is learned from them.
        fingerprint: SHA-256 of the files behind `log`, `catalogue` and `conversions`.
    """

    log: Sequence[Example]
    catalogue: Sequence[Item] = ()
    conversions: Sequence[Conversion] = ()
    _: KW_ONLY
    imported: Sequence[Example] = ()
    calibration: Sequence[Example] = ()
    held_out: frozenset[str] = frozenset()
    test_queries: Sequence[Example] = ()
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class LabellingJob:
    """One labelling job.

    Attributes:
        queries: To be labelled: distinct, not empty, not too long.
        compared: Those of them that are only labelled so that the student can be compared with the teacher. A backend
            that learns from the job's queries leaves them out.
        folder: For the index; an index of the same input is used again.
        fetch: Returns the folder of a model by name.
        finder: An opened context finder, for a process that labels block after block; None opens one.
        limiter: Keeps the budget where other processes spend from it too; None is the task's own budget.
        planned: Requests of jobs that are done before this one: a plan counts them as answered.
    """

    task: Task
    sources: Sources
    queries: Sequence[Example]
    _: KW_ONLY
    ledger: LedgerAccess
    folder: Path
    fetch: Callable[[str], Path]
    progress: Progress
    compared: frozenset[str] = frozenset()
    finder: ContextFinder | None = None
    limiter: SpendLimiter | None = None
    planned: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabellingPlan:
    """The work that a job would do.

    Attributes:
        ask: Queries with a request that has no reply in the ledger.
        revalidate: Queries whose stored replies only have to be parsed and validated again, without a call.
        unchanged: Number of queries with nothing to do.
        calls: Requests to send, without retries.
        tokens: Likely prompt and completion tokens of these calls.
        cost: Of the likely tokens, or None if the model has no known price.
        reasons: Reason → number of queries that are asked for it.
        requests: The requests to send, less those that depend on their answers.
    """

    ask: Sequence[str]
    revalidate: Sequence[str]
    unchanged: int
    calls: int = 0
    tokens: tuple[int, int] = (0, 0)
    cost: float | None = 0.0
    reasons: Mapping[str, int] | None = None
    requests: frozenset[str] = frozenset()

    @property
    def spending(self) -> str:
        """Calls, tokens and money as text."""
        money = "no known price" if self.cost is None else f"about {self.cost:,.2f}"
        tokens = "about {:,} tokens in and {:,} out".format(*self.tokens)
        return f"{self.calls:,} calls, {tokens}, {money}"


def in_all(plans: Iterable[LabellingPlan]) -> LabellingPlan:
    """Several plans as one."""
    every = list(plans)
    costs = [p.cost for p in every if p.cost is not None]
    return LabellingPlan(
        ask=[q for p in every for q in p.ask], revalidate=[q for p in every for q in p.revalidate],
        unchanged=sum(p.unchanged for p in every), calls=sum(p.calls for p in every),
        tokens=(sum(p.tokens[0] for p in every), sum(p.tokens[1] for p in every)),
        cost=sum(costs) if len(costs) == len(every) else None,
    )

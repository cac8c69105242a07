"""The bundle served over HTTP: started, queried with the gold rows, and load-tested."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eval.bench import Bench, Settings, bench
from eval.endpoint import Target
from task.labels import Example
from task.progress import Progress
from task.spec import Task
from task.validation import FaultKind, violation

if TYPE_CHECKING:
    from serving.client import ServedAnswer

_BATCH = 64
_WARM_UP = 32
SERVED: Final = "student, merged and served"  # its name among the systems of the report
# Serve the bundle even if its engine disagrees with the student: the gate judges the agreement.
UNCHECKED: Final = ("--set", "self_check=0")


@dataclass(frozen=True, slots=True)
class Served:
    """Answers and speed of a served bundle.

    Attributes:
        rows: The gold queries with its labels.
        probability: Probability that each labelling is right; None where the service returns none.
        invalid: Why each answer is invalid, None for a valid one: what the gateway marked, and what it let through.
        rate: Queries per second, in batches.
        bench: The latency run; None where the task leaves it out.
    """

    rows: list[Example]
    probability: list[float | None]
    invalid: list[FaultKind | None]
    rate: float
    bench: Bench | None


def serve_and_ask(bundle: Path, state: Path, gold: Sequence[Example], task: Task, progress: Progress) -> Served:
    """Serve a bundle, label the gold queries without the cache, then measure latency with hits and misses."""
    from serving.client import served

    progress.begin("starting the engine and the gateway")
    with served(bundle, state=state, options=UNCHECKED) as url:
        return ask(url, bundle, gold, task, progress, load=True)


def ask(url: str, bundle: Path, gold: Sequence[Example], task: Task, progress: Progress, *, load: bool) -> Served:
    """The same for a bundle that is served at `url`; `load` runs the task's latency benchmark."""
    from serving.client import answer_all
    from serving.release.head_cache import HeadCache

    plan = task.eval.latency
    progress.begin("the served student", len(gold))
    started = time.monotonic()
    answers = answer_all(url, gold, batch=_BATCH, done=progress.advance)
    rate = len(gold) / (time.monotonic() - started)
    found = None
    if load and plan.seconds:
        hits = list(HeadCache(bundle / "cache").queries())
        slo = task.gates.slo
        found = bench(Target(url), [g.query for g in gold], Settings(
            rate=plan.rate, seconds=plan.seconds, repeats=plan.repeats, hit_share=plan.hit_share if hits else 0.0,
            warm_up=_WARM_UP, seed=task.eval.seed, slo_ms=slo.ms if slo else None,
            percentile=slo.percentile if slo else "p99",
        ), hits, progress)
    return Served(
        [a.row for a in answers], [a.probability for a in answers], [fault_of(a, task) for a in answers], rate, found
    )


def fault_of(answer: ServedAnswer, task: Task) -> FaultKind | None:
    """Why an answer is invalid: what the gateway says, or what it should have seen."""
    found = violation(task, answer.row.query, answer.row.labels)
    return answer.fault or (found.kind if found else None)

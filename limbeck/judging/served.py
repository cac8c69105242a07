"""The bundle served over HTTP: started, queried with the gold rows, and load-tested."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eval.bench import Bench, Settings, bench
from eval.endpoint import Target
from task.labels import Example
from task.progress import Progress
from task.spec import Task

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
        invalid: Whether each answer breaks the task's rules.
        rate: Queries per second, in batches.
        bench: The latency run; None where the task leaves it out.
    """

    rows: list[Example]
    probability: list[float | None]
    invalid: list[bool]
    rate: float
    bench: Bench | None


def serve_and_ask(bundle: Path, state: Path, gold: Sequence[Example], task: Task, progress: Progress) -> Served:
    """Serve a bundle, label the gold queries without the cache, then measure latency with hits and misses."""
    from serving.client import served

    progress.begin("starting vLLM and the gateway")
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
    rows = [row for row, _ in answers]
    return Served(rows, [p for _, p in answers], [not fits(row, task) for row in rows], rate, found)


def fits(row: Example, task: Task) -> bool:
    """Whether a labelling obeys the task: roles, closed values, words of the query, single-valued roles."""
    single = [r.name for r in task.roles if not r.multiple]
    return all(
        task.label_problem(row.query, x.role, x.text) is None
        and (x.start is None or row.query[x.start : x.end] == x.text)
        for x in row.labels
    ) and all(sum(x.role == name for x in row.labels) <= 1 for name in single)

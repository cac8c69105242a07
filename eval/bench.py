"""A latency benchmark of a running server: cold, warm, at a steady rate, and up to the rate where it saturates."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from eval.arrivals import ArrivalPlan, poisson
from eval.endpoint import Target
from eval.latency import MIN_SAMPLES, percentiles, summarise, unqueued
from eval.latency_schema import (
    LatencyBench,
    LatencySummary,
    RateSweep,
    SloCheck,
    SteadyLatency,
    SweepRate,
    percentile_of,
)
from eval.load_generator import one_by_one, run
from eval.load_samples import Samples
from task.errors import InputError
from task.progress import Progress, quiet

SCHEMA: Final = 2  # the version of bench.json; 2 has `invalid_answers`
PER_PROCESS: Final = 2_500.0  # requests per second that one process of the generator sends on schedule
_STEP: Final = 1.6  # factor by which the rate rises
_HALVINGS: Final = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server is measured.

    Attributes:
        rate: Requests per second of the steady runs.
        ramp_to: In each of these runs the rate rises linearly from `rate` to this one.
        seconds: Duration of each.
        repeats: Number of runs; from five on, intervals include the variance between runs.
        hit_share: Share of the requests that ask one of the cached queries.
        single: Number of queries asked one by one, first cold, then again.
        warm_up: Number of other queries sent before the steady runs.
        slo_ms: Latency objective.
        percentile: The percentile that must meet it.
        sweep_seconds: Duration of each rate of the sweep; 0 leaves it out.
        processes: Processes of the generator; None takes as many as the rate needs.
        plan: Requests to replay instead of Poisson arrivals.
    """

    rate: float = 16.0
    ramp_to: float | None = None
    seconds: float = 60.0
    repeats: int = 5
    hit_share: float = 0.0
    single: int = 60
    warm_up: int = 64
    slo_ms: float | None = None
    percentile: str = "p99"
    sweep_seconds: float = 0.0
    processes: int | None = None
    timeout_s: float = 30.0
    seed: int = 0
    plan: ArrivalPlan | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """Figures and the raw samples by phase."""

    figures: LatencyBench
    samples: dict[str, list[Samples]]


def bench(
    target: Target, queries: Sequence[str], settings: Settings, hits: Sequence[str] = (), progress: Progress = quiet
) -> Bench:
    """Measure a server.

    As long as there are enough queries, each is used once: `single` of them one by one, others to warm up, the rest in
    the steady runs and the sweep. The share of requests that repeat an earlier query of their run is reported, because
    a prefix cache makes those faster.

    Raises:
        InputError: No query, or the server does not answer the first ones.
    """
    s = settings
    order = np.random.default_rng(s.seed).permutation(len(queries))
    shuffled = [queries[i] for i in order]
    if not shuffled:
        raise InputError("there is no query to ask", field="--queries", fix="Give a file with some hundred of them")
    single, rest = _apart(shuffled, s.single)
    warm, rest = _apart(rest, s.warm_up)
    samples: dict[str, list[Samples]] = {}
    progress.begin("one by one, cold", 2 * len(single))
    for name in ("cold", "warm_prefix"):
        samples[name] = [one_by_one(target, single, use_cache=False, timeout_s=s.timeout_s)]
        progress.advance(len(single))
        if name == "cold":
            _answers(samples[name][0], target)
    progress.begin("warming up", len(warm))
    run(poisson(s.rate, max(1.0, len(warm) / s.rate), warm, s.seed), target, timeout_s=s.timeout_s)
    rate = s.plan.rate if s.plan is not None else s.rate
    processes = _processes(s, max(rate, s.ramp_to or 0.0))
    runs = _steady(target, rest, hits, s, rate, processes, progress)
    samples["steady"] = [found for _, found in runs]
    steady: SteadyLatency = {
        **summarise(runs, slo_ms=s.slo_ms, kinds=target.api == "label"),
        "arrivals": "replayed" if s.plan is not None else "poisson" if s.ramp_to is None else "rising poisson",
        "queries_repeated": round(float(np.mean([_repeated(p) for p, _ in runs])), 4),
        "processes": processes,
    }
    return Bench({
        "schema": SCHEMA, "url": target.url, "api": target.api, "model": target.model if target.api == "chat" else None,
        "single": len(single), "cold": percentiles(samples["cold"][0].latency),
        "warm_prefix": percentiles(samples["warm_prefix"][0].latency), "steady": steady,
        "sweep": sweep(target, rest, hits, s, progress) if s.sweep_seconds else None, "slo": _slo(steady, s),
    }, samples)


def _steady(
    target: Target, queries: Sequence[str], hits: Sequence[str], s: Settings, rate: float, processes: int,
    progress: Progress,
) -> list[tuple[ArrivalPlan, Samples]]:
    runs = []
    for number in range(s.repeats):
        plan = s.plan or poisson(
            s.rate, s.seconds, _turned(queries, number, s.repeats), s.seed + 1 + number, hits=hits,
            hit_share=s.hit_share, to=s.ramp_to,
        )
        progress.begin(f"steady, {rate:g}/s, run {number + 1} of {s.repeats}", len(plan))
        runs.append((plan, run(
            plan, target, processes=processes, timeout_s=s.timeout_s, on_done=progress.advance
        )))
    return runs


def sweep(
    target: Target, queries: Sequence[str], hits: Sequence[str], s: Settings, progress: Progress = quiet
) -> RateSweep:
    """Find the highest rate that the server sustains: rates rise until one fails, then a bisection closes the gap.

    A rate is sustained where the server is not saturated, 99.9 % of the requests are answered, the achieved rate is at
    least 95 % of the offered one, and the SLO is met, if there is one. With an SLO a rate is offered for as long as its
    percentile needs requests, if that is longer than `sweep_seconds`: of fewer it cannot be told whether it is met. No
    lower rate is tried where the requests that waited for no other miss the SLO already.

    Returns:
        `rates` in rising order; `sustained`: the highest sustained rate, None where there is none; `limit`: `server`,
        or `generator` where the runs became invalid first, so that the server's limit is unknown.
    """
    rows: list[SweepRate] = []
    least = 0 if s.slo_ms is None else MIN_SAMPLES[s.percentile]
    idle_too_slow = False

    def holds(rate: float) -> bool:
        nonlocal idle_too_slow
        # A third more, because the number of requests in a time is random.
        seconds = max(s.sweep_seconds, 4 / 3 * least / rate)
        plan = poisson(
            rate, seconds, _turned(queries, len(rows), 7), s.seed + 1_000 + len(rows), hits=hits,
            hit_share=s.hit_share,
        )
        progress.begin(f"sweep, {rate:.4g}/s", len(plan))
        found = run(plan, target, processes=_processes(s, rate), timeout_s=s.timeout_s, on_done=progress.advance)
        row = summarise([(plan, found)], slo_ms=s.slo_ms, kinds=target.api == "label")
        errors = row["blended"]["errors"] / max(1, row["requests"])
        met = _slo(row, s)
        sustained = bool(
            row["valid"] and not row["saturated"] and errors <= 0.001 and (met is None or met["ok"])
            and row["achieved_rate"] >= 0.95 * len(plan) / seconds
        )
        rows.append({**row, "holds": sustained, "rate": round(rate, 3)})
        idle_too_slow |= _idle_misses(found, s)
        return sustained

    rate = s.rate
    low, high = 0.0, None
    while high is None and len(rows) < 20:
        if holds(rate):
            low, rate = rate, rate * _STEP
        elif low == 0.0 and rate > 0.25 and not idle_too_slow:
            rate /= 4
        else:
            high = rate
    for _ in range(_HALVINGS if high is not None and low else 0):
        middle = (low * high) ** 0.5 if high is not None else low
        if holds(middle):
            low = middle
        else:
            high = middle
    rows.sort(key=lambda r: r["rate"])
    first_bad = next((r for r in rows if not r["holds"] and r["rate"] > low), None)
    return {
        "rates": rows, "sustained": round(low, 3) if low else None,
        "limit": None if first_bad is None else "server" if first_bad["valid"] else "generator",
        "seconds": s.sweep_seconds,
    }


def _slo(found: LatencySummary, s: Settings) -> SloCheck | None:
    """Whether the upper bound of the percentile lies within the SLO."""
    if s.slo_ms is None:
        return None
    at = percentile_of(found["blended"], s.percentile)
    high = None if at is None else at["high"]
    return {"ms": s.slo_ms, "percentile": s.percentile, "measured": at, "ok": high is not None and high <= s.slo_ms}


def _idle_misses(samples: Samples, s: Settings) -> bool:
    """Whether the requests that waited for no other are too many and too slow for the SLO to be met at any rate."""
    idle = percentile_of(percentiles(unqueued(samples)), s.percentile)
    low = None if idle is None else idle["low"]
    return low is not None and s.slo_ms is not None and low > s.slo_ms


def _answers(samples: Samples, target: Target) -> None:
    """Stop at once where every request failed."""
    if (samples.status != 200).all():
        status = int(samples.status[0])
        raise InputError(
            "no request was answered", field="URL", found=target.url if not status else f"{target.url}: HTTP {status}",
            expected="a server that answers 200",
            fix="Give its address without a path, such as http://127.0.0.1:8080" if status == 404
            else "Is it running, and is this its port? Does it need --key?",
        )


def _apart(queries: list[str], number: int) -> tuple[list[str], list[str]]:
    """The first `number` and the rest; if fewer than `number` would be left, all queries serve for both."""
    return (queries[:number], queries[number:]) if len(queries) >= 2 * number else (queries[:number], queries)


def _turned(queries: Sequence[str], part: int, parts: int) -> list[str]:
    """The queries, rotated to another start for each run."""
    at = (len(queries) * part // max(1, parts)) % max(1, len(queries))
    return [*queries[at:], *queries[:at]]


def _repeated(plan: ArrivalPlan) -> float:
    return 1 - len(set(plan.queries)) / len(plan) if len(plan) else 0.0


def _processes(s: Settings, rate: float) -> int:
    return s.processes or max(1, min(os.cpu_count() or 1, round(rate / PER_PROCESS)))

"""Open-loop load: requests leave when the schedule says, whether or not earlier ones have come back.

Latency counts from the scheduled departure, so a stalled server cannot hide the requests that it kept waiting
(coordinated omission). A run that could not keep its schedule is invalid, not merely slow. Hits and misses are
reported apart: blended, the student would vanish behind its cache.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import aiohttp
import numpy as np

Kind = Literal["hit", "miss"]
MIN_ACHIEVED: Final = 0.99
# Samples below which a percentile has no upper 95 % confidence bound: smallest n with 1 - p^n >= 0.95.
MIN_SAMPLES: Final = {"p50": 5, "p95": 59, "p99": 299}


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times in seconds; `latency` from the scheduled departure, infinite when it failed."""

    kind: Kind
    scheduled: float
    delay: float
    latency: float
    ok: bool


def schedule(rate: float, seconds: float, hit_share: float, seed: int) -> list[tuple[float, Kind]]:
    """Poisson departures: (offset in seconds, kind)."""
    rng = random.Random(seed)
    out: list[tuple[float, Kind]] = []
    at = rng.expovariate(rate)
    while at < seconds:
        out.append((at, "hit" if rng.random() < hit_share else "miss"))
        at += rng.expovariate(rate)
    return out


async def open_loop(
    url: str, plan: Sequence[tuple[float, Kind]], queries: dict[Kind, Sequence[str]], timeout_s: float = 30.0,
    on_done: Callable[[int], None] = lambda _: None,
) -> list[Sample]:
    """Send the plan to `url/v1/label`, one query a request; hits may use the cache, misses skip it."""
    samples: list[Sample] = []
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s), connector=connector) as session:
        start = time.perf_counter() + 0.05

        async def one(number: int, at: float, kind: Kind) -> None:
            due = start + at
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent = time.perf_counter()
            pool = queries[kind]
            ok = await _ask(session, url, pool[number % len(pool)], kind)
            latency = time.perf_counter() - due
            samples.append(Sample(kind, at, sent - due, latency if ok else float("inf"), ok))
            on_done(1)

        await asyncio.gather(*(one(n, at, kind) for n, (at, kind) in enumerate(plan)))
    return sorted(samples, key=lambda s: s.scheduled)


async def one_by_one(url: str, queries: Sequence[str], kind: Kind, timeout_s: float = 60.0) -> list[float]:
    """Seconds of single requests on an otherwise idle server."""
    out = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session:
        for query in queries:
            started = time.perf_counter()
            ok = await _ask(session, url, query, kind)
            out.append(time.perf_counter() - started if ok else float("inf"))
    return out


async def _ask(session: aiohttp.ClientSession, url: str, query: str, kind: Kind) -> bool:
    try:
        async with session.post(f"{url}/v1/label", json={"query": query, "use_cache": kind == "hit"}) as response:
            await response.read()
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def summarise(samples: Sequence[Sample], rate: float, seconds: float, planned: int) -> dict[str, Any]:
    """Percentiles per kind and blended, with what is needed to believe them.

    Returns:
        JSON-ready: `valid` and `problem`, offered and achieved rate, dispatch delay, and per kind `count`, `errors`,
        `p50_ms`, `p95_ms`, `p99_ms` (None where there are too few samples).
    """
    sent_in_time = sum(s.delay < 0.1 for s in samples)
    achieved = sent_in_time / planned if planned else 0.0
    problem = None
    if achieved < MIN_ACHIEVED:
        problem = f"only {achieved:.1%} of the requests left within 100 ms of their time: the generator was too slow"
    delays = np.array([s.delay for s in samples]) if samples else np.zeros(1)
    groups = {
        "hit": [s for s in samples if s.kind == "hit"], "miss": [s for s in samples if s.kind == "miss"],
        "blended": list(samples),
    }
    return {
        "valid": problem is None, "problem": problem, "offered_rate": rate, "seconds": seconds,
        "requests": len(samples), "sent_in_time": round(achieved, 5),
        "dispatch_delay_p99_ms": round(float(np.quantile(delays, 0.99)) * 1e3, 3),
        **{name: percentiles([s.latency for s in group]) for name, group in groups.items()},
    }


def percentiles(seconds: Sequence[float]) -> dict[str, Any]:
    """Count, errors and percentiles in ms with distribution-free 95 % intervals (order statistics)."""
    values = np.sort(np.array(seconds, dtype=np.float64))
    out: dict[str, Any] = {"count": len(values), "errors": int(np.isinf(values).sum())}
    for name, least in MIN_SAMPLES.items():
        p = int(name[1:]) / 100
        if len(values) < least:
            out[f"{name}_ms"] = None
            continue
        spread = 1.96 * np.sqrt(len(values) * p * (1 - p))
        ranks = [np.clip(round(len(values) * p + d), 0, len(values) - 1) for d in (0, -spread, spread)]
        at, low, high = (float(values[int(r)]) * 1e3 for r in ranks)
        out[f"{name}_ms"] = {k: None if np.isinf(v) else round(v, 3) for k, v in
                             (("value", at), ("low", low), ("high", high))}
    return out

"""Arrival schedules of requests: a Poisson process, or a replayed log."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from task.errors import InputError
from task.table_files import rows_of

_SHOWN = "seconds, or a time such as 2026-11-22T10:00:00.250"


@dataclass(frozen=True, slots=True)
class ArrivalPlan:
    """Requests in order of departure.

    Attributes:
        at: Seconds from the start of the run, shape (requests,), rising.
        queries: The query of each request.
        use_cache: Whether each may be answered from a cache, shape (requests,).
        rate: Offered requests per second.
        seconds: Duration of the schedule.
    """

    at: npt.NDArray[np.float64]
    queries: Sequence[str]
    use_cache: npt.NDArray[np.bool_]
    rate: float
    seconds: float

    def __len__(self) -> int:
        return len(self.at)

    def share(self, part: int, of: int) -> ArrivalPlan:
        """Every `of`-th request, from `part` on, for one of `of` processes."""
        return ArrivalPlan(
            self.at[part::of], self.queries[part::of], self.use_cache[part::of], self.rate / of, self.seconds
        )


def poisson(
    rate: float, seconds: float, misses: Sequence[str], seed: int, *, hits: Sequence[str] = (), hit_share: float = 0.0,
    to: float | None = None,
) -> ArrivalPlan:
    """Independent arrivals: exponential gaps of 1/rate seconds in the mean.

    Args:
        to: The rate changes linearly to this one.
        misses: Queries that the cache must not answer; all are used once before any repeats.
        hits: Queries that the cache may answer, likewise.
        hit_share: Share of the requests that ask one of `hits`.
    """
    rng = np.random.default_rng(seed)
    mean = rate if to is None else (rate + to) / 2
    expected = mean * seconds
    # Time change of a unit-rate process by the inverse of the integrated rate.
    unit = np.cumsum(rng.exponential(1.0, int(expected + 12 * expected**0.5 + 40)))
    unit = unit[unit < expected]
    rise = 0.0 if to is None else (to - rate) / seconds
    at = unit / rate if rise == 0.0 else (np.sqrt(rate**2 + 2 * rise * unit) - rate) / rise
    hit = rng.random(len(at)) < (hit_share if hits else 0.0)
    pools = {True: _Endless(hits, rng), False: _Endless(misses, rng)}
    return ArrivalPlan(at, [next(pools[bool(h)]) for h in hit], hit, mean, seconds)


def replay(source: Path, speed: float = 1.0) -> ArrivalPlan:
    """A traffic log with its own timing: rows `{"query", "at"}`, `at` in seconds or as a time of day.

    Args:
        speed: 2 replays the log in half the time.

    Raises:
        InputError: A row has no `at`, or one that is earlier than the row before it.
    """
    at: list[float] = []
    queries: list[str] = []
    for line, row in rows_of(source):
        when = _seconds(row.get("at"))
        if when is None or not isinstance(row.get("query"), str):
            field = "at" if isinstance(row.get("query"), str) else "query"
            raise InputError(
                "not a row of a traffic log", file=source, line=line, field=field, found=row.get(field),
                expected=_SHOWN if field == "at" else "a text", fix='Each row is {"query": …, "at": …}',
            )
        if at and when < at[-1]:
            raise InputError(
                "a request earlier than the one in the row above", file=source, line=line, field="at", found=row["at"],
                fix="Sort the log by time",
            )
        at.append(when)
        queries.append(str(row["query"]))
    offsets = (np.array(at) - at[0]) / speed
    seconds = float(offsets[-1]) if len(at) > 1 else 1.0
    return ArrivalPlan(offsets, queries, np.ones(len(at), dtype=bool), len(at) / max(seconds, 1e-9), seconds)


def _seconds(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    try:
        return datetime.datetime.fromisoformat(str(value)).timestamp() if isinstance(value, str) else None
    except ValueError:
        return None


class _Endless:
    """Cycles through a pool in one random order."""

    def __init__(self, pool: Sequence[str], rng: np.random.Generator) -> None:
        self._pool, self._order, self._next = pool, rng.permutation(len(pool)), 0

    def __next__(self) -> str:
        found = self._pool[int(self._order[self._next % len(self._pool)])]
        self._next += 1
        return found

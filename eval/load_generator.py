"""The load generator: open loop, requests leave on schedule whether or not earlier ones have been answered.

One or several processes send a plan's requests over kept-alive connections and record the scheduled departure, the
actual departure and the end of the answer of each. The generator's own processor time is measured too, because on a
small machine it competes with the server. Latency counts from the scheduled departure, so that a server that stalls
cannot hide the requests that it kept waiting (coordinated omission). asyncio runs over `select`, whose timers are exact
to about 0.1 ms; those of `epoll` and uvloop have a resolution of 1 ms, more than a cache hit takes.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import selectors
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

import numpy as np

from eval.arrivals import ArrivalPlan
from eval.endpoint import Target
from eval.load_connections import CONNECTIONS, Sender
from eval.load_samples import Samples, empty, joined
from task.python_process import without_current_folder

_START_S: Final = 0.25  # from the last process being ready to the first departure


def run(
    plan: ArrivalPlan, target: Target, *, processes: int = 1, timeout_s: float = 30.0,
    on_done: Callable[[int], None] = lambda _: None,
) -> Samples:
    """Send the requests of a plan.

    Args:
        processes: Number of processes that share the plan; they use the same monotonic clock.
        timeout_s: From the scheduled departure; then the request has failed and its connection is closed.
        on_done: Called with the number of newly answered requests; with several processes only at the end.
    """
    if not len(plan):
        return joined([empty()])
    if processes == 1:
        return _sent(plan, target, timeout_s, time.perf_counter() + _START_S, on_done)
    parts = [plan.share(i, processes) for i in range(processes)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        with without_current_folder():  # a `pickle.py` there would be taken for Python's
            list(pool.map(_ready, range(processes)))
        start = time.perf_counter() + 2 * _START_S + processes * 0.1
        send = functools.partial(_sent, target=target, timeout_s=timeout_s, start=start)
        found = joined(list(pool.map(send, parts)))
        on_done(len(found))
        return found


def one_by_one(target: Target, queries: Sequence[str], *, use_cache: bool, timeout_s: float = 60.0) -> Samples:
    """Closed loop with one request in flight, on an otherwise idle server."""
    async def ask() -> Samples:
        sender = Sender(target, len(queries), timeout_s)
        for number, query in enumerate(queries):
            sender.send(number, time.perf_counter(), target.request(query, use_cache=use_cache))
            await sender.settled()
        return sender.close(np.zeros(len(queries)))

    return _in_loop(ask)


def in_turns(
    targets: Sequence[Target], queries: Sequence[str], *, use_cache: bool, timeout_s: float = 60.0,
    on_done: Callable[[int], None] = lambda _: None,
) -> list[Samples]:
    """Every query to every target, one request at a time; the order of targets alternates (ABBA).

    Disturbances of the machine then affect all targets alike, and the samples of a query are paired.
    """
    async def ask() -> list[Samples]:
        senders = [Sender(t, len(queries), timeout_s) for t in targets]
        for number, query in enumerate(queries):
            for target, sender in list(zip(targets, senders, strict=True))[:: 1 if number % 2 else -1]:
                sender.send(number, time.perf_counter(), target.request(query, use_cache=use_cache))
                await sender.settled()
            on_done(1)
        return [s.close(np.zeros(len(queries))) for s in senders]

    with asyncio.Runner(loop_factory=_loop) as runner:
        return runner.run(ask())


def _ready(_: int) -> int:
    """Runs in each worker process: returns once this module is imported."""
    time.sleep(0.1)
    return os.getpid()


def _sent(
    plan: ArrivalPlan, target: Target, timeout_s: float, start: float, on_done: Callable[[int], None] = lambda _: None
) -> Samples:
    async def send() -> Samples:
        known: dict[tuple[str, bool], bytes] = {}
        requests = []
        for query, use_cache in zip(plan.queries, plan.use_cache, strict=True):
            key = (query, bool(use_cache))
            if key not in known:
                known[key] = target.request(query, use_cache=bool(use_cache))
            requests.append(known[key])
        sender = Sender(target, len(plan), timeout_s, on_done)
        await sender.open(min(16, CONNECTIONS))
        begin = max(start, time.perf_counter() + _START_S)
        for number, at in enumerate(plan.at):
            wait = begin + at - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            elif number % 64 == 0:
                await asyncio.sleep(0)  # behind schedule: let answers be read
            sender.send(number, begin + at, requests[number])
        await sender.settled()
        return sender.close(plan.at)

    return _in_loop(send)


def _in_loop(work: Callable[[], Any]) -> Samples:
    with asyncio.Runner(loop_factory=_loop) as runner:
        found: Samples = runner.run(work())
        return found


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(selectors.SelectSelector())

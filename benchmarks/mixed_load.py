"""An open-loop load of hits and misses that keeps every answer, for tests of a service under changes and faults."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

_AGAIN = 5  # connections break with the worker that held them, those in a pool as well: clients ask again


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request.

    Attributes:
        hit: Whether the query stands in the head cache.
        due: Unix time at which it was to leave.
        seconds: From then to the end of its answer.
        status: HTTP status, 0 where no connection held.
        body: The JSON of the answer.
        broken: Connections that broke on the way.
    """

    hit: bool
    due: float
    seconds: float
    status: int
    query: str
    body: dict[str, Any]
    broken: int = 0


@dataclass
class MixedLoad:
    """An open loop of Poisson departures in a thread of its own; a context manager.

    Args:
        hits: Cached queries, asked in turn.
        misses: Others, asked in turn.
        rate: Requests a second.
        share: Of misses among them.
    """

    url: str
    hits: Sequence[str]
    misses: Sequence[str]
    rate: float
    share: float
    outcomes: list[Outcome] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> MixedLoad:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def since(self, when: float, until: float = float("inf")) -> list[Outcome]:
        """The outcomes of requests that were to leave in a span of Unix time."""
        return [x for x in self.outcomes if when <= x.due < until]

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=256)) as kept:
            tasks: set[asyncio.Task[None]] = set()
            for number, (due, hit) in enumerate(self._departures()):
                await asyncio.sleep(max(0.0, due - time.time()))
                if self._stop.is_set():
                    break
                task = asyncio.create_task(self._one(kept, number, due, hit))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)

    def _departures(self) -> Iterator[tuple[float, bool]]:
        rng = random.Random(0)
        due = time.time()
        while True:
            due += rng.expovariate(self.rate)
            yield due, rng.random() >= self.share

    async def _one(self, kept: aiohttp.ClientSession, number: int, due: float, hit: bool) -> None:
        queries = self.hits if hit else self.misses
        query = queries[number % len(queries)]
        status, body, broken = 0, {}, 0
        while status == 0 and broken < _AGAIN:
            try:
                async with contextlib.AsyncExitStack() as stack:
                    # Every eighth comes over a connection of its own: new ones must be accepted all the time.
                    session = kept if number % 8 else await stack.enter_async_context(aiohttp.ClientSession())
                    post = session.post(f"{self.url}/v1/label", json={"query": query})
                    response = await stack.enter_async_context(post)
                    body = await response.json()
                    status = response.status
            except (aiohttp.ClientError, TimeoutError):
                broken += 1
        self.outcomes.append(Outcome(hit, due, time.time() - due, status, query, body, broken))

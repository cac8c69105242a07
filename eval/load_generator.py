"""The load generator: requests leave when the plan says, whether or not earlier ones have come back.

One or several processes send a plan's requests over kept connections and note, for each, when it should have left, when
it left, and when its answer ended; what it costs the generator itself is measured too, for on a small machine it takes
from the server what it uses. Time counts from the scheduled departure, so a server that stalls cannot hide the requests
that it kept waiting (coordinated omission). asyncio runs over `select`, whose timers are exact to some 0.1 ms; those of
`epoll` and uvloop count whole milliseconds, more than a cache hit takes.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import selectors
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import httptools
import numpy as np
import numpy.typing as npt

from eval.arrivals import Plan
from eval.endpoint import Target, cached, streamed_tokens

CONNECTIONS: Final = 800  # of a process, for `select` knows 1,024 files; what waits for one is late, and that is seen
_START_S: Final = 0.25  # from the last process being ready to the first departure
_NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Samples:
    """What became of each request; arrays of one length, times in seconds.

    Attributes:
        scheduled: When it was to leave, from the start of the run.
        delay: How much later it left.
        latency: From the scheduled departure to the end of its answer; infinite where there was none, or an error.
        first: To the first token of a streamed answer; NaN where nothing was streamed.
        tokens: Tokens of a streamed answer.
        status: HTTP status; 0 where no connection held or time ran out.
        hit: Whether the answer came from a cache.
        cpu: Seconds of processor time that the generator took in all, and by how many processes; one row each.
    """

    scheduled: npt.NDArray[np.float64]
    delay: npt.NDArray[np.float64]
    latency: npt.NDArray[np.float64]
    first: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    status: npt.NDArray[np.int64]
    hit: npt.NDArray[np.bool_]
    cpu: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scheduled)

    def where(self, mask: npt.NDArray[np.bool_]) -> Samples:
        """Some of the requests."""
        return self.taken(np.flatnonzero(mask))

    def taken(self, places: npt.NDArray[np.int64]) -> Samples:
        """The requests at these places, in this order."""
        return replace(self, **{f.name: getattr(self, f.name)[places] for f in fields(self) if f.name != "cpu"})


def joined(parts: Sequence[Samples]) -> Samples:
    """Several processes' or runs' requests as one, by scheduled time."""
    whole = Samples(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Samples)))
    order = np.argsort(whole.scheduled, kind="stable")
    return whole.taken(order)


def run(
    plan: Plan, target: Target, *, processes: int = 1, timeout_s: float = 30.0,
    on_done: Callable[[int], None] = lambda _: None,
) -> Samples:
    """Send a plan.

    Args:
        processes: How many share it; their clocks are one.
        timeout_s: From the departure; then the request has failed and its connection is closed.
        on_done: Told how many more were answered; with several processes only at the end.
    """
    if not len(plan):
        return joined([_empty()])
    if processes == 1:
        return _sent(plan, target, timeout_s, time.perf_counter() + _START_S, on_done)
    parts = [plan.share(i, processes) for i in range(processes)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        list(pool.map(_ready, range(processes)))
        start = time.perf_counter() + 2 * _START_S + processes * 0.1
        send = functools.partial(_sent, target=target, timeout_s=timeout_s, start=start)
        found = joined(list(pool.map(send, parts)))
        on_done(len(found))
        return found


def one_by_one(target: Target, queries: Sequence[str], *, use_cache: bool, timeout_s: float = 60.0) -> Samples:
    """Single requests on an otherwise idle server, the next one when the last has been answered."""
    async def ask() -> Samples:
        sender = _Sender(target, len(queries), timeout_s)
        for number, query in enumerate(queries):
            sender.send(number, time.perf_counter(), target.request(query, use_cache=use_cache))
            await sender.settled()
        return sender.close(np.zeros(len(queries)))

    return _in_loop(ask)


def in_turns(
    targets: Sequence[Target], queries: Sequence[str], *, use_cache: bool, timeout_s: float = 60.0,
    on_done: Callable[[int], None] = lambda _: None,
) -> list[Samples]:
    """Every query to every target, one request at a time, the order turned round from query to query (ABBA).

    What the machine does meanwhile then meets all of them alike, and the samples of a query belong together.
    """
    async def ask() -> list[Samples]:
        senders = [_Sender(t, len(queries), timeout_s) for t in targets]
        for number, query in enumerate(queries):
            for target, sender in list(zip(targets, senders, strict=True))[:: 1 if number % 2 else -1]:
                sender.send(number, time.perf_counter(), target.request(query, use_cache=use_cache))
                await sender.settled()
            on_done(1)
        return [s.close(np.zeros(len(queries))) for s in senders]

    with asyncio.Runner(loop_factory=_loop) as runner:
        return runner.run(ask())


def _ready(_: int) -> int:
    """A process that has imported all this."""
    time.sleep(0.1)
    return os.getpid()


def _sent(
    plan: Plan, target: Target, timeout_s: float, start: float, on_done: Callable[[int], None] = lambda _: None
) -> Samples:
    async def send() -> Samples:
        known: dict[tuple[str, bool], bytes] = {}
        requests = []
        for query, use_cache in zip(plan.queries, plan.use_cache, strict=True):
            key = (query, bool(use_cache))
            if key not in known:
                known[key] = target.request(query, use_cache=bool(use_cache))
            requests.append(known[key])
        sender = _Sender(target, len(plan), timeout_s, on_done)
        await sender.open(min(16, CONNECTIONS))
        begin = max(start, time.perf_counter() + _START_S)
        for number, at in enumerate(plan.at):
            wait = begin + at - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            elif number % 64 == 0:
                await asyncio.sleep(0)  # behind: answers must still be read
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


class _Sender:
    """Keeps connections and the notes of what was sent over them."""

    def __init__(
        self, target: Target, requests: int, timeout_s: float, on_done: Callable[[int], None] = lambda _: None
    ) -> None:
        self.target, self.timeout_s = target, timeout_s
        self.address = target.address  # what is no address is said here, not in a task that nobody waits for
        self.due = np.zeros(requests)
        self.delay = np.full(requests, _NEVER)
        self.latency = np.full(requests, _NEVER)
        self.first = np.full(requests, np.nan)
        self.tokens = np.zeros(requests, dtype=np.int64)
        self.status = np.zeros(requests, dtype=np.int64)
        self.hit = np.zeros(requests, dtype=bool)
        self.idle: deque[_Connection] = deque()
        self.waiting: deque[tuple[int, bytes]] = deque()
        self.pending = 0
        self.connections = 0
        self.opening: set[asyncio.Task[None]] = set()
        self.sent_again: set[int] = set()
        self._on_done = on_done
        self._quiet: asyncio.Future[None] | None = None
        self._cpu = time.process_time()

    async def open(self, number: int) -> None:
        """Connections before the first request, as a client that has been at work for a while has them."""
        self.connections += number
        await asyncio.gather(*(self._connect() for _ in range(number)))

    def send(self, number: int, due: float, request: bytes) -> None:
        """Send a request at once, or as soon as there is a connection for it."""
        self.due[number] = due
        self.pending += 1
        if self.idle:
            self.idle.pop().send(number, request)
            return
        self.waiting.append((number, request))
        if self.connections < CONNECTIONS:
            self._open_one()

    async def settled(self) -> None:
        """All that was sent has been answered or given up."""
        while self.pending:
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet

    def close(self, scheduled: npt.NDArray[np.float64]) -> Samples:
        """End the connections; what was noted."""
        for connection in self.idle:
            connection.close()
        cpu = np.array([time.process_time() - self._cpu])
        return Samples(
            scheduled, self.delay, self.latency, self.first, self.tokens, self.status, self.hit, cpu
        )

    async def _connect(self) -> None:
        host, port, tls = self.address
        try:
            async with asyncio.timeout(self.timeout_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self), host, port, ssl=tls or None
                )
        except (OSError, TimeoutError):
            self.connections -= 1
            if self.waiting:  # nobody listens: the request that asked for this connection has failed, and left in time
                number, _ = self.waiting.popleft()
                self.delay[number] = 0.0
                self.done(number, 0)

    def free(self, connection: _Connection) -> None:
        """A connection has nothing to do: it takes what waits."""
        while self.waiting:
            number, request = self.waiting.popleft()
            if time.perf_counter() - self.due[number] < self.timeout_s:
                connection.send(number, request)
                return
            self.done(number, 0)
        self.idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        """A connection has ended."""
        self.connections -= 1
        if connection in self.idle:
            self.idle.remove(connection)
        if self.waiting and self.connections < CONNECTIONS:
            self._open_one()

    def once_more(self, number: int, request: bytes) -> bool:
        """Whether a request whose connection ended before a byte came back may go again: once, and in time."""
        if number in self.sent_again or time.perf_counter() - self.due[number] >= self.timeout_s:
            return False
        self.sent_again.add(number)
        self.waiting.appendleft((number, request))
        return True

    def _open_one(self) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._connect())
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    def done(self, number: int, status: int) -> None:
        """A request has been answered, or never will be."""
        self.status[number] = status
        if status == 200:
            self.latency[number] = time.perf_counter() - self.due[number]
        self.pending -= 1
        self._on_done(1)
        if not self.pending and self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)


class _Connection(asyncio.Protocol):
    """One kept connection with at most one request on it."""

    def __init__(self, sender: _Sender) -> None:
        self.sender = sender
        self.number: int | None = None
        self.transport: Any = None
        self.parser: Any = None
        self.timer: asyncio.TimerHandle | None = None
        self.again: bytes | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join those that are free."""
        self.transport = transport
        self.sender.free(self)

    def send(self, number: int, request: bytes) -> None:
        """Write a request."""
        sender = self.sender
        now = time.perf_counter()
        self.number, self.again = number, request
        self.body = b""
        sender.delay[number] = now - sender.due[number]
        self.parser = httptools.HttpResponseParser(self)
        self.timer = asyncio.get_running_loop().call_later(
            max(0.0, sender.due[number] + sender.timeout_s - now), self.close
        )
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        self.again = None
        try:
            if self.parser is not None:
                self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_body(self, body: bytes) -> None:
        """Part of an answer's body; of a stream, the first that brings text is its first token."""
        assert self.number is not None
        if self.sender.target.api == "chat":
            tokens = streamed_tokens(body)
            if tokens and np.isnan(self.sender.first[self.number]):
                self.sender.first[self.number] = time.perf_counter() - self.sender.due[self.number]
            self.sender.tokens[self.number] += tokens
        else:
            self.body += body

    def on_message_complete(self) -> None:
        """The answer is whole."""
        assert self.number is not None
        number, parser = self.number, self.parser
        self.sender.hit[number] = cached(self.body)
        self.number, self.parser = None, None
        if self.timer is not None:
            self.timer.cancel()
        self.sender.done(number, parser.get_status_code())
        if parser.should_keep_alive():
            self.sender.free(self)
        else:
            self.transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        """A kept connection that the server closed as a request left is no error of the request: it goes again."""
        sender = self.sender
        if self.timer is not None:
            self.timer.cancel()
        if self.number is not None:
            if self.again is None or not sender.once_more(self.number, self.again):
                sender.done(self.number, 0)
            self.number = None
        sender.lost(self)

    def close(self) -> None:
        """Give up."""
        self.transport.abort()


def _empty() -> Samples:
    none = np.zeros(0)
    return Samples(none, none, none, none, none.astype(np.int64), none.astype(np.int64), none.astype(bool), none)

"""HTTP connections of the load generator: at most one request in flight on each, with its times."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import httptools
import numpy as np
import numpy.typing as npt

from eval.endpoint import Target, cached, marked_invalid, streamed_tokens
from eval.load_samples import Samples

# Per process: `select` can watch 1,024 files. A request that waits for a connection counts as late.
CONNECTIONS: Final = 800
_NEVER: Final = float("inf")


class Sender:
    """A pool of kept-alive connections to one server, and the outcome of every request sent over them."""

    def __init__(
        self, target: Target, requests: int, timeout_s: float, on_done: Callable[[int], None] = lambda _: None
    ) -> None:
        self.target, self.timeout_s = target, timeout_s
        self.address = target.address  # raises for an invalid address here, not in a background task
        self.due = np.zeros(requests)
        self.delay = np.full(requests, _NEVER)
        self.latency = np.full(requests, _NEVER)
        self.first = np.full(requests, np.nan)
        self.tokens = np.zeros(requests, dtype=np.int64)
        self.status = np.zeros(requests, dtype=np.int64)
        self.hit = np.zeros(requests, dtype=bool)
        self.invalid = np.zeros(requests, dtype=bool)
        self.idle: deque[Connection] = deque()
        self.waiting: deque[tuple[int, bytes]] = deque()
        self.pending = 0
        self.connections = 0
        self.opening: set[asyncio.Task[None]] = set()
        self.sent_again: set[int] = set()
        self._on_done = on_done
        self._all_done: asyncio.Future[None] | None = None
        self._cpu = time.process_time()

    async def open(self, number: int) -> None:
        """Open connections before the first request, so that its latency does not include a handshake."""
        self.connections += number
        await asyncio.gather(*(self._connect() for _ in range(number)))

    def send(self, number: int, due: float, request: bytes) -> None:
        """Send a request now, or as soon as a connection is free."""
        self.due[number] = due
        self.pending += 1
        if self.idle:
            self.idle.pop().send(number, request)
            return
        self.waiting.append((number, request))
        if self.connections < CONNECTIONS:
            self._open_one()

    async def settled(self) -> None:
        """Wait until every request has been answered or has failed."""
        while self.pending:
            self._all_done = asyncio.get_running_loop().create_future()
            await self._all_done

    def close(self, scheduled: npt.NDArray[np.float64]) -> Samples:
        """Close the connections and return the samples."""
        for connection in self.idle:
            connection.close()
        cpu = np.array([time.process_time() - self._cpu])
        return Samples(
            scheduled, self.delay, self.latency, self.first, self.tokens, self.status, self.hit, self.invalid, cpu
        )

    async def _connect(self) -> None:
        host, port, tls = self.address
        try:
            async with asyncio.timeout(self.timeout_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self), host, port, ssl=tls or None
                )
        except (OSError, TimeoutError):
            self.connections -= 1
            if self.waiting:  # connection refused: the request that needed it has failed; its dispatch delay is 0
                number, _ = self.waiting.popleft()
                self.delay[number] = 0.0
                self.done(number, 0)

    def free(self, connection: Connection) -> None:
        """A connection is free: send the next waiting request over it."""
        while self.waiting:
            number, request = self.waiting.popleft()
            if time.perf_counter() - self.due[number] < self.timeout_s:
                connection.send(number, request)
                return
            self.done(number, 0)
        self.idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """A connection was closed."""
        self.connections -= 1
        if connection in self.idle:
            self.idle.remove(connection)
        if self.waiting and self.connections < CONNECTIONS:
            self._open_one()

    def once_more(self, number: int, request: bytes) -> bool:
        """Queue a request again whose connection closed before a byte came back; once, and before its timeout."""
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
        """Record the outcome of a request."""
        self.status[number] = status
        if status == 200:
            self.latency[number] = time.perf_counter() - self.due[number]
        self.pending -= 1
        self._on_done(1)
        if not self.pending and self._all_done is not None and not self._all_done.done():
            self._all_done.set_result(None)


class Connection(asyncio.Protocol):
    """A kept-alive connection with at most one request in flight."""

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self.number: int | None = None
        self.transport: Any = None
        self.parser: Any = None
        self.timer: asyncio.TimerHandle | None = None
        self.again: bytes | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the free connections."""
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
        """Parse a part of an answer."""
        self.again = None
        try:
            if self.parser is not None:
                self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_body(self, body: bytes) -> None:
        """A part of the body; the first event of a stream with text marks the first token."""
        assert self.number is not None
        if self.sender.target.api == "chat":
            tokens = streamed_tokens(body)
            if tokens and np.isnan(self.sender.first[self.number]):
                self.sender.first[self.number] = time.perf_counter() - self.sender.due[self.number]
            self.sender.tokens[self.number] += tokens
        else:
            self.body += body

    def on_message_complete(self) -> None:
        """The answer is complete."""
        assert self.number is not None
        number, parser = self.number, self.parser
        self.sender.hit[number], self.sender.invalid[number] = cached(self.body), marked_invalid(self.body)
        self.number, self.parser = None, None
        if self.timer is not None:
            self.timer.cancel()
        self.sender.done(number, parser.get_status_code())
        if parser.should_keep_alive():
            self.sender.free(self)
        else:
            self.transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        """Retry a request once if the server closed the idle connection just as the request left."""
        sender = self.sender
        if self.timer is not None:
            self.timer.cancel()
        if self.number is not None:
            if self.again is None or not sender.once_more(self.number, self.again):
                sender.done(self.number, 0)
            self.number = None
        sender.lost(self)

    def close(self) -> None:
        """Abort the connection."""
        self.transport.abort()

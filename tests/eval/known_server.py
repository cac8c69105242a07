"""Servers whose answer times are known, each in a process of its own, for the load generator to be held against.

    python -m tests.eval.known_server constant 0.02      20 ms each
    python -m tests.eval.known_server mm1 500 1          one server, exponential service at 500/s, seed 1
    python -m tests.eval.known_server stall 10 1         stalls the first second of every ten
    python -m tests.eval.known_server fail 4             500 to every fourth
    python -m tests.eval.known_server drop 3             every third connection is closed without an answer
    python -m tests.eval.known_server stream 0.05 0.01 5 completions: 50 ms to the first of 5 tokens, then 10 ms each
    python -m tests.eval.known_server limit 100          one server, 10 ms each: gives in above 100/s

Prints its port. Answers leave by timers of `select`, exact to 0.1 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from task.python_process import environment, python


@contextlib.contextmanager
def known(kind: str, *numbers: float) -> Iterator[str]:
    """One of them, in a process of its own; gives its URL."""
    command = python("-m", "tests.eval.known_server", kind, *map(str, numbers))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


class Server:
    """Decides when a request that has just come is to be answered, and how."""

    def __init__(self, kind: str, *numbers: float) -> None:
        self.kind, self.numbers = kind, numbers
        self.started = time.perf_counter()
        self.count = itertools.count(1)
        self.free_at = 0.0
        self.rng = random.Random(int(numbers[1]) if kind == "mm1" else 0)

    def answer_at(self) -> float:
        now = time.perf_counter()
        if self.kind == "constant":
            return now + self.numbers[0]
        if self.kind in ("mm1", "limit"):
            service = self.rng.expovariate(self.numbers[0]) if self.kind == "mm1" else 1 / self.numbers[0]
            self.free_at = max(now, self.free_at) + service
            return self.free_at
        if self.kind == "stall":
            every, long = self.numbers
            into = (now - self.started) % every
            return now + max(0.0, long - into)
        return now


class Exchange(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self.server, self.buffer = server, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        self.buffer = b""
        loop, server = asyncio.get_running_loop(), self.server
        number = next(server.count)
        if server.kind == "drop" and number % server.numbers[0] == 0:
            self.transport.abort()
        elif server.kind == "stream":
            first, gap, tokens = server.numbers
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            for i in range(int(tokens)):
                loop.call_later(first + i * gap, self.chunk, b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n')
            loop.call_later(first + (tokens - 1) * gap, self.chunk, b"data: [DONE]\n\n")
            loop.call_later(first + (tokens - 1) * gap, self.transport.write, b"0\r\n\r\n")
        else:
            failed = server.kind == "fail" and number % server.numbers[0] == 0
            source = b"cache" if b'"use_cache"' not in body else b"student"
            answer = b'{"source":"%s"}' % source
            status = b"500 No" if failed else b"200 OK"
            loop.call_later(max(0.0, server.answer_at() - time.perf_counter()), self.transport.write, (
                b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(answer), answer)
            ))

    def chunk(self, data: bytes) -> None:
        self.transport.write(b"%x\r\n%s\r\n" % (len(data), data))


async def serve(kind: str, *numbers: float) -> None:
    server = Server(kind, *numbers)
    listener = await asyncio.get_running_loop().create_server(lambda: Exchange(server), "127.0.0.1", 0, backlog=1_024)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(serve(sys.argv[1], *map(float, sys.argv[2:])))

"""uvicorn embedded in a process that has other tasks, and sharing one socket with other processes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.gateway.accept_balancing import BalancedAcceptor, ConnectionCounts

HEADER_TIMEOUT_S = 10.0


class HeaderTimeoutProtocol(HttpToolsProtocol):
    """Closes a connection whose request headers are not complete in time (slowloris).

    uvicorn's own time-out applies between requests only; the body has the request's deadline.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEADER_TIMEOUT_S, self._on_timeout)

    def on_message_begin(self) -> None:
        """Start the timer, which already runs for the first request of a connection."""
        super().on_message_begin()
        if self._timer is None:
            self._timer = self.loop.call_later(HEADER_TIMEOUT_S, self._on_timeout)

    def on_headers_complete(self) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def _on_timeout(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # the previous request is still being answered
            self._timer = self.loop.call_later(HEADER_TIMEOUT_S, self._on_timeout)
        else:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class EmbeddedServer(uvicorn.Server):
    """A server that leaves signals to its caller, and balances connections where it is given `counts`."""

    def __init__(self, config: uvicorn.Config, counts: ConnectionCounts | None = None) -> None:
        super().__init__(config)
        self._counts = counts

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        counts = self._counts
        if counts is None or not sockets:
            await super().startup(sockets)
            return
        http: Any = self.config.http_protocol_class
        protocol = functools.partial(http, config=self.config, server_state=self.server_state, app_state={})
        open_now = self.server_state.connections
        self.servers: Any = [
            BalancedAcceptor(s, protocol, lambda: counts.surplus(len(open_now))) for s in sockets
        ]
        self.started = True

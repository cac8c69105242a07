"""uvicorn beside other things in one process, and beside other processes on one socket."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.gateway.accept_balancing import Tally, Turns

HEAD_S = 10.0


class ImpatientProtocol(HttpToolsProtocol):
    """Closes a connection whose request's head is not there in time: nobody holds one by sending a byte now and then.

    uvicorn looks at the clock only between requests; bodies have the request's deadline.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._late = self.loop.call_later(HEAD_S, self._give_up)

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of a head; the first one's time is running already."""
        super().on_message_begin()
        if self._late is None:
            self._late = self.loop.call_later(HEAD_S, self._give_up)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_time()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._in_time()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # the request before is being answered
            self._late = self.loop.call_later(HEAD_S, self._give_up)
        else:
            self.transport.close()

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class QuietServer(uvicorn.Server):
    """A server that leaves signals to whoever runs it, and shares a socket fairly where it is given a tally."""

    def __init__(self, config: uvicorn.Config, tally: Tally | None = None) -> None:
        super().__init__(config)
        self._tally = tally

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        tally = self._tally
        if tally is None or not sockets:
            await super().startup(sockets)
            return
        http: Any = self.config.http_protocol_class
        protocol = functools.partial(http, config=self.config, server_state=self.server_state, app_state={})
        open_now = self.server_state.connections
        self.servers: Any = [Turns(s, protocol, lambda: tally.surplus(len(open_now))) for s in sockets]
        self.started = True

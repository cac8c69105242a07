"""uvicorn beside other things in one process, and beside other processes on one socket."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from serving.turns import Tally, Turns


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

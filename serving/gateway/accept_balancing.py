"""Connections shared out among processes that listen on one socket."""

from __future__ import annotations

import asyncio
import mmap
import socket
import struct
from collections.abc import Callable
from pathlib import Path

_COUNT = struct.Struct("=I")
_HOLD_S, _LONGEST_HOLD_S = 0.001, 0.02  # for each connection above one's share, and at most


class Tally:
    """How many connections each process has open, in memory that all of them see."""

    def __init__(self, path: Path, number: int, processes: int) -> None:
        """Join.

        Args:
            path: A file, made where there is none.
            number: Of this process, from 0.
        """
        self._number, self._processes = number, processes
        with path.open("ab+") as file:
            file.truncate(_COUNT.size * processes)
            self._memory = mmap.mmap(file.fileno(), _COUNT.size * processes)

    def surplus(self, mine: int) -> float:
        """Say how many this process has; how many it has above its share."""
        _COUNT.pack_into(self._memory, _COUNT.size * self._number, mine)
        total: int = sum(x for (x,) in _COUNT.iter_unpack(self._memory[:]))
        return mine - total / self._processes


class Turns:
    """Accepts connections one by one; holds back while others have fewer.

    Event loops accept all that wait at once: of several processes on a socket the first to wake up would get every
    connection of a client that opens many, and with them all of its requests.
    """

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol], surplus: Callable[[], float]
    ) -> None:
        """Begin.

        Args:
            surplus: How many connections this process has above its share.
        """
        listener.setblocking(False)
        self._task = asyncio.get_running_loop().create_task(self._accept(listener, protocol, surplus))

    async def _accept(
        self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol], surplus: Callable[[], float]
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            above = surplus()
            if above > 0:
                await asyncio.sleep(min(_LONGEST_HOLD_S, _HOLD_S * above))
            try:
                connection, _ = await loop.sock_accept(listener)
                await loop.connect_accepted_socket(protocol, connection)
            except OSError:  # the client is gone, or there are no descriptors left: those in use will be free soon
                await asyncio.sleep(0.01)

    def close(self) -> None:
        """Accept no more."""
        self._task.cancel()

    async def wait_closed(self) -> None:
        """Wait until none is being accepted."""
        await asyncio.gather(self._task, return_exceptions=True)

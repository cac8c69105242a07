"""Balances connections among the processes that listen on one socket."""

from __future__ import annotations

import asyncio
import mmap
import socket
import struct
from collections.abc import Callable
from pathlib import Path

_COUNT = struct.Struct("=I")
_DELAY_S, _MAX_DELAY_S = 0.001, 0.02  # for each connection above the process's share, and at most


class ConnectionCounts:
    """How many connections each process has open, in shared memory."""

    def __init__(self, path: Path, *, number: int, processes: int) -> None:
        """Map the file.

        Args:
            path: A file, made where there is none.
            number: Of this process, from 0.
            processes: How many share the socket.
        """
        self._number, self._processes = number, processes
        with path.open("ab+") as file:
            file.truncate(_COUNT.size * processes)
            self._memory = mmap.mmap(file.fileno(), _COUNT.size * processes)

    def surplus(self, own: int) -> float:
        """Store how many connections this process has; returns how many that is above the mean of all processes."""
        _COUNT.pack_into(self._memory, _COUNT.size * self._number, own)
        total: int = sum(x for (x,) in _COUNT.iter_unpack(self._memory[:]))
        return own - total / self._processes


class BalancedAcceptor:
    """Accepts connections one by one, with a delay while other processes have fewer.

    An event loop accepts all pending connections at once: of several processes on a socket the first to wake up would
    get every connection of a client that opens many, and with them all of its requests.
    """

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol], surplus: Callable[[], float]
    ) -> None:
        """Start accepting.

        Args:
            protocol: Makes the protocol of a connection.
            surplus: Gives how many connections this process has above its share.
        """
        listener.setblocking(False)
        self._task = asyncio.get_running_loop().create_task(self._accept(listener, protocol, surplus))

    async def _accept(
        self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol], surplus: Callable[[], float]
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            excess = surplus()
            if excess > 0:
                await asyncio.sleep(min(_MAX_DELAY_S, _DELAY_S * excess))
            try:
                connection, _ = await loop.sock_accept(listener)
                await loop.connect_accepted_socket(protocol, connection)
            except OSError:  # the client has closed, or no file descriptors are left: some will be free soon
                await asyncio.sleep(0.01)

    def close(self) -> None:
        """Stop accepting."""
        self._task.cancel()

    async def wait_closed(self) -> None:
        """Wait until accepting has stopped."""
        await asyncio.gather(self._task, return_exceptions=True)

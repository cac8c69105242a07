"""Connections are balanced among processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import time
from multiprocessing.connection import Connection
from pathlib import Path

from serving.gateway.accept_balancing import BalancedAcceptor, ConnectionCounts


def test_counts_tell_who_has_more(tmp_path: Path) -> None:
    one, two = (ConnectionCounts(tmp_path / "counts", number=n, processes=2) for n in (0, 1))
    assert one.surplus(4) == 2.0
    assert two.surplus(0) == -2.0
    assert one.surplus(1) == 0.5


def _serve(handle: socket.socket, path: Path, number: int, end: Connection) -> None:
    async def run() -> None:
        count = 0

        def protocol() -> asyncio.Protocol:
            nonlocal count
            count += 1
            return asyncio.Protocol()

        counts = ConnectionCounts(path, number=number, processes=2)
        acceptor = BalancedAcceptor(handle, protocol, lambda: counts.surplus(count))
        end.send("ready")
        while not end.poll():
            await asyncio.sleep(0.01)
        acceptor.close()
        await acceptor.wait_closed()
        end.send(count)

    asyncio.run(run())


def test_a_client_that_opens_many_gets_them_from_all(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        ends, processes = [], []
        for number in (0, 1):
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(listener, tmp_path / "counts", number, theirs))
            process.start()
            assert mine.recv() == "ready"
            ends.append(mine)
            processes.append(process)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(100)]
        time.sleep(0.5)
        for end in ends:
            end.send("stop")
        counts = [int(end.recv()) for end in ends]
        for process in processes:
            process.join()
        for client in clients:
            client.close()
    assert sum(counts) == 100
    assert min(counts) >= 40

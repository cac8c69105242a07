"""Connections with incomplete request headers are closed."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from serving.gateway import uvicorn_server
from serving.gateway.accept_balancing import ConnectionCounts
from serving.gateway.uvicorn_server import EmbeddedServer, HeaderTimeoutProtocol

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def app(_scope: Any, _receive: Any, send: Any) -> None:
    await asyncio.sleep(0.6)  # longer than the headers may take: here it is the response that takes so long
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("first", [b"", b"GET / HT", REQUEST + b"GET / HT"])
def test_incomplete_headers_time_out(first: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_server, "HEADER_TIMEOUT_S", 0.3)

    async def run() -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            config = uvicorn.Config(app, http=HeaderTimeoutProtocol, lifespan="off", log_level="warning")
            server = EmbeddedServer(config, ConnectionCounts(tmp_path / "counts", number=0, processes=1))
            task = asyncio.create_task(server.serve([listener]))
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            started = time.monotonic()
            writer.write(first)
            answer = await asyncio.wait_for(reader.read(), 5.0)
            assert answer.count(b"200 OK") == first.count(REQUEST)
            assert time.monotonic() - started >= 0.25
            writer.close()
            server.should_exit = True
            await task

    asyncio.run(run())

"""HTTP as clients speak it, on a real socket: upgrades, body framing, versions, and limits on headers."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from serving.gateway import uvicorn_server
from serving.gateway.accept_balancing import ConnectionCounts
from serving.gateway.uvicorn_server import EmbeddedServer, GatewayProtocol
from tests.serving.conftest import listening

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
            config = uvicorn.Config(app, http=GatewayProtocol, lifespan="off", log_level="warning")
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


async def told(scope: Any, receive: Any, send: Any) -> None:
    """Answers what it was asked: method, target, headers and body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    found = {
        "method": scope["method"], "path": scope["path"], "body": body.decode(),
        "headers": [[k.decode(), v.decode()] for k, v in scope["headers"]],
    }
    out = json.dumps(found).encode()
    await send({
        "type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(out)).encode())]
    })
    await send({"type": "http.response.body", "body": out})


def exchanged(*parts: bytes, answers: int = 1) -> tuple[list[dict[str, Any]], bytes]:
    """What `told` saw of `answers` requests that are sent in these parts, and all bytes that came back."""

    async def run() -> bytes:
        async with listening(told) as url:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            got = b""
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.02)
            while got.count(b"HTTP/1.1 ") - got.count(b"HTTP/1.1 100") < answers or not got.endswith((b"}", b".")):
                more = await asyncio.wait_for(reader.read(65_536), 5.0)
                if not more:
                    break
                got += more
            writer.close()
            return got

    raw = asyncio.run(run())
    return [json.loads(x.partition(b"\r\n\r\n")[2]) for x in raw.split(b"HTTP/1.1 200 OK\r\n")[1:]], raw


OFFER = b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\nX-Own:\r\n"
SIZED = b"POST /a?b=c HTTP/1.1\r\n" + OFFER + b"Content-Length: 13\r\n\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\n" + OFFER + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b'{"query":"x"}'
IN_CHUNKS = b'6\r\n{"quer\r\n7\r\ny":"x"}\r\n0\r\n\r\n'


@pytest.mark.parametrize("parts", [
    [SIZED + BODY], [SIZED, BODY], [SIZED, BODY[:5], BODY[5:]], [SIZED[:60], SIZED[60:] + BODY[:1], BODY[1:]],
    [CHUNKED + IN_CHUNKS], [CHUNKED, IN_CHUNKS[:4], IN_CHUNKS[4:]], [bytes([b]) for b in SIZED + BODY],
])
def test_an_offer_to_upgrade_is_ignored_and_the_body_kept(parts: list[bytes]) -> None:
    """As Java's HttpClient, Ktor and `curl --http2` send it, in one segment or in several."""
    (found,), _ = exchanged(*parts)
    assert (found["method"], found["path"], found["body"]) == ("POST", "/a", BODY.decode())
    names = [k for k, _ in found["headers"]]
    assert ["x-own", ""] in found["headers"]
    assert not {"upgrade", "http2-settings"} & set(names)


def test_requests_follow_one_that_offered_an_upgrade() -> None:
    """On the same connection, also before the first is answered."""
    plain = b"POST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi"
    found, _ = exchanged(SIZED + BODY + plain + CHUNKED + IN_CHUNKS + plain, answers=4)
    assert [x["body"] for x in found] == [BODY.decode(), "hi", BODY.decode(), "hi"]
    found, _ = exchanged(SIZED + BODY, SIZED + BODY, plain, answers=3)
    assert [x["path"] for x in found] == ["/a", "/a", "/b"]


def test_other_offers_and_connections_are_as_the_client_asks() -> None:
    close = b"GET /c HTTP/1.1\r\nhost: x\r\nconnection: close, upgrade\r\nupgrade: websocket\r\n\r\n"
    (found,), raw = exchanged(close)
    assert found["path"] == "/c"
    assert b"\r\nconnection: close" in raw
    assert exchanged(b"CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\n\r\n")[1].startswith(b"HTTP/1.1 400 ")
    split = b"POST /a HTTP/1.1\r\n" + OFFER + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"
    assert exchanged(split + IN_CHUNKS)[1].startswith(b"HTTP/1.1 400 ")  # two lengths: request smuggling


def test_a_client_that_expects_100_continue_gets_it() -> None:
    head = SIZED.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue")
    (found,), raw = exchanged(head, BODY)
    assert raw.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert found["body"] == BODY.decode()


def test_headers_that_do_not_end_are_refused_before_they_fill_the_memory() -> None:
    """One long header, many short ones, or a long URL."""
    for endless in (b"X: " + b"y" * 40_000, b"x: yyyyyy\r\n" * 4_000):
        _, raw = exchanged(b"GET / HTTP/1.1\r\n", *[endless] * 2)
        assert raw.startswith(b"HTTP/1.1 431 ")
        assert json.loads(raw.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
    assert exchanged(b"GET /", *[b"a" * 40_000] * 2)[1].startswith(b"HTTP/1.1 431 ")
    body = b"b" * 200_000
    sized = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n"
    found, _ = exchanged(sized + body + b"GET /b HT", b"TP/1.1\r\nhost: x\r\n\r\n", answers=2)  # a body is no header
    assert [len(x["body"]) for x in found] == [200_000, 0]

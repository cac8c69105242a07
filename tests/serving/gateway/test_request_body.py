"""Compressed bodies, encodings of text, and their limits."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest

from serving.gateway.http_exchange import HttpError
from serving.gateway.request_body import inflated
from tests.serving.conftest import Open

BODY = json.dumps({"query": "rice MILK"}).encode()


def packed(data: bytes) -> bytes:
    """gzip without the time, so that the names of tests are the same in every process."""
    return gzip.compress(data, mtime=0)


def bare(data: bytes) -> bytes:
    """Deflate without zlib's header, as some clients send it."""
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(("encoding", "body"), [
    ("gzip", packed(BODY)), ("GZIP", packed(BODY)), ("x-gzip", packed(BODY)),
    ("gzip", packed(BODY[:5]) + packed(BODY[5:])), ("deflate", zlib.compress(BODY)),
    ("deflate", zlib.compress(BODY, 9)), ("deflate", bare(BODY)), ("identity", BODY), ("", BODY),
])
def test_a_compressed_body_is_read(harness: Open, encoding: str, body: bytes) -> None:
    async def run() -> None:
        async with harness() as h:
            found = await h.client.post("/v1/label", content=body, headers={"Content-Encoding": encoding})
            assert (found.status_code, [x["text"] for x in found.json()["labels"]]) == (200, ["MILK"])

    asyncio.run(run())


@pytest.mark.parametrize(("encoding", "body", "status", "said"), [
    ("br", b"\x0b\x02\x80", 415, "'br'; expected one of gzip, deflate"), ("zstd", b"\x28\xb5\x2f\xfd", 415, "'zstd'"),
    ("gzip, gzip", packed(packed(BODY)), 415, "'gzip, gzip'"),
    ("gzip", BODY, 400, "cannot be inflated"), ("gzip", b"", 400, "incomplete"),
    ("gzip", packed(BODY)[:-9], 400, "incomplete"),
    ("gzip", packed(BODY) + b"x", 400, "cannot be inflated"),
    ("deflate", zlib.compress(BODY) + b"x", 400, "1 bytes follow"), ("deflate", b"", 400, "incomplete"),
    ("gzip", packed(bytes(2_000)), 413, "the inflated body is larger than 1000 bytes"),
    ("gzip", packed(BODY[:9]) + packed(bytes(2_000)), 413, "the inflated body is larger"),
    ("deflate", zlib.compress(bytes(2_000)), 413, "the inflated body is larger"),
])
def test_a_body_that_cannot_be_inflated_is_refused(
    harness: Open, encoding: str, body: bytes, status: int, said: str
) -> None:
    async def run() -> None:
        async with harness(max_body_bytes=1_000) as h:
            for path in ("/v1/label", "/v1/label:batch", "/v1/chat/completions"):
                found = await h.client.post(path, content=body, headers={"Content-Encoding": encoding})
                assert found.status_code == status
                assert said in found.json()["error"]["message"]
                assert (found.headers.get("Accept-Encoding") == "gzip, deflate") == (status == 415)
            assert h.engine.requests == 0

    asyncio.run(run())


def test_a_bomb_is_never_in_memory() -> None:
    """A quarter of a gigabyte of zeros is a quarter of a megabyte of gzip."""
    import tracemalloc

    stream = zlib.compressobj(9, wbits=31)
    bomb = b"".join(stream.compress(bytes(1 << 20)) for _ in range(256)) + stream.flush()
    tracemalloc.start()
    try:
        with pytest.raises(HttpError, match="larger than 100000 bytes"):
            inflated(bomb, "gzip", 100_000)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [
    None, "application/json; charset=utf-8", "application/json;charset=ISO-8859-1", "text/plain",
    "application/x-www-form-urlencoded", "",
])
def test_a_body_is_json_in_utf8_whatever_its_content_type_says(harness: Open, kind: str | None) -> None:
    """Of Java's StringEntity or `curl -d`, for instance; a byte order mark is passed over."""

    async def run() -> None:
        headers: dict[str, Any] = {} if kind is None else {"Content-Type": kind}
        async with harness() as h:
            for mark in (b"", b"\xef\xbb\xbf"):
                body = mark + '{"query": "crème MILK"}'.encode()
                found = await h.client.post("/v1/label", content=body, headers=headers)
                assert (found.status_code, found.json()["query"]) == (200, "crème MILK")

    asyncio.run(run())


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_body_in_another_encoding_is_told_so(harness: Open, encoding: str) -> None:
    async def run() -> None:
        async with harness() as h:
            found = await h.client.post("/v1/label", content='{"query": "crème"}'.encode(encoding))
            assert found.status_code == 422
            assert "the body is not UTF-8: byte 0x" in found.json()["error"]["message"]

    asyncio.run(run())

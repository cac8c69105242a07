"""The body of a request: read within its limits, inflated, and parsed."""

from __future__ import annotations

import asyncio
import zlib
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from serving.gateway.http_exchange import Exchange, HttpError, too_large

_Model = TypeVar("_Model", bound=BaseModel)
_ENCODINGS = "gzip, deflate"
_BOM = b"\xef\xbb\xbf"
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


async def parsed(exchange: Exchange, model: type[_Model], *, limit: int, due: float) -> _Model:
    """The body as a model of `serving.gateway.messages`.

    Args:
        limit: In bytes, for the body as it is sent and as it is inflated.
        due: The deadline, in the loop's time.

    Raises:
        HttpError: It did not come in time, is too large, has an encoding other than gzip and deflate, or does not match
            the model.
        ClientGoneError: The connection was closed before.
    """
    try:
        async with asyncio.timeout_at(due):
            body = await exchange.body(limit)
    except TimeoutError as error:
        raise HttpError(
            408, kind="timeout", message="the body did not come in time", headers={"Connection": "close"}
        ) from error
    encoding = exchange.headers.get(b"content-encoding")
    if encoding is not None:
        body = inflated(body, encoding.decode("latin-1").strip().lower(), limit)
    try:
        return model.model_validate_json(body.removeprefix(_BOM))
    except ValidationError as error:
        raise _mismatch(body, error) from error


def inflated(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its content encoding; never more than `limit` bytes of it are in memory.

    Raises:
        HttpError: An unknown encoding (415), more than `limit` bytes (413), or not data in this encoding (400).
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise HttpError(
            415, kind="invalid_request_error", param="Content-Encoding", headers={"Accept-Encoding": _ENCODINGS},
            message=f"Content-Encoding is {encoding[:40]!r}; expected one of {_ENCODINGS}, identity, or none",
        )
    if encoding != "deflate":
        return _inflated(body, _GZIP, limit, encoding)
    # Some clients send a bare deflate stream where the standard (RFC 9110, 8.4.1.2) wants one in zlib's format.
    return _inflated(body, _ZLIB if len(body) > 1 and _zlib_header(body) else _RAW, limit, encoding)


def _inflated(body: bytes, window: int, limit: int, encoding: str) -> bytes:
    out = b""
    while True:
        stream = zlib.decompressobj(window)
        try:
            out += stream.decompress(body, limit - len(out) + 1)
        except zlib.error as error:
            raise _garbled(encoding, str(error)) from error
        if len(out) > limit:
            raise too_large(limit, "inflated body")
        if not stream.eof:
            raise _garbled(encoding, "it is incomplete")
        body = stream.unused_data
        if not body:
            return out
        if window != _GZIP:  # gzip data may have several members
            raise _garbled(encoding, f"{len(body)} bytes follow its end")


def _zlib_header(body: bytes) -> bool:
    return body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0


def _garbled(encoding: str, why: str) -> HttpError:
    return HttpError(
        400, kind="invalid_request_error", param="Content-Encoding",
        message=f"Content-Encoding is {encoding}, and the body cannot be inflated: {why}",
    )


def _mismatch(body: bytes, error: ValidationError) -> HttpError:
    """The first thing that does not match."""
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        message = f"the body is not UTF-8: byte {body[wrong.start]:#04x} at offset {wrong.start}"
        return HttpError(422, kind="invalid_request_error", message=message)
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(x) for x in first["loc"])
    return HttpError(
        422, kind="invalid_request_error", param=where or None,
        message=f"{where}: {first['msg']}" if where else first["msg"],
    )

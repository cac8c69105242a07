"""CORS (https://fetch.spec.whatwg.org): requests from web pages of the origins in `cors_origins`.

Clients authenticate with a header that scripts must set themselves, never with cookies. `Allow-Credentials` is not
sent, so a browser sends no cookies and `*` gives no page a user's rights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# A script may read these in addition to the few that are always readable.
_EXPOSED = b"x-request-id, retry-after"
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9_., -]{1,4096}")
_MAX_AGE_S = b"600"

Headers = list[tuple[bytes, bytes]]


def response_headers(request: Mapping[bytes, bytes], origins: Sequence[str]) -> Headers:
    """Headers of every response, errors included, to a request with these headers; empty where no origin is allowed."""
    if not origins:
        return []
    origin = request.get(b"origin", b"")
    if "*" in origins:
        allowed: Headers = [(b"access-control-allow-origin", b"*")] if origin else []
    else:
        allowed = [(b"access-control-allow-origin", origin)] if origin.decode("latin-1") in origins else []
        allowed += [(b"vary", b"Origin")]  # a cache must not give one origin's answer to another
    return [*allowed, (b"access-control-expose-headers", _EXPOSED)] if origin else allowed


def preflight_headers(request: Mapping[bytes, bytes], methods: str) -> dict[str, str]:
    """Further headers of the response to `OPTIONS`: what a script of an allowed origin may send.

    Any request header is allowed: OpenAI's SDK for JavaScript, for instance, sends several `X-Stainless-…`.
    """
    out = {"Access-Control-Allow-Methods": methods, "Access-Control-Max-Age": _MAX_AGE_S.decode()}
    asked = request.get(b"access-control-request-headers", b"")
    if _HEADER_NAMES.fullmatch(asked):
        out["Access-Control-Allow-Headers"] = asked.decode("ascii")
    return out

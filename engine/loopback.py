"""Ports on this machine's loopback address, the only one that engines listen on, and requests to them."""

from __future__ import annotations

import socket
import urllib.request
from http.client import HTTPResponse
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    """A TCP port on loopback that is free at the moment."""
    with socket.socket() as s:
        s.bind((LOOPBACK, 0))
        return int(s.getsockname()[1])


def open_url(request: urllib.request.Request | str, *, timeout_s: float) -> HTTPResponse:
    """`urllib.request.urlopen`, but without the proxy of the environment for this machine: it would not find us.

    Raises:
        OSError: As `urlopen` does.
    """
    url = request if isinstance(request, str) else request.full_url
    here = urlsplit(url).hostname in {LOOPBACK, "localhost", "::1"}
    # Not `urlopen`, which keeps for the whole process the proxies that the environment names at its first call.
    opener = _DIRECT if here else urllib.request.build_opener()
    opened: HTTPResponse = opener.open(request, timeout=timeout_s)
    return opened

"""uvicorn embedded in a process that has other tasks, and sharing one socket with other processes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Iterator
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.gateway.accept_balancing import BalancedAcceptor, ConnectionCounts
from serving.gateway.http_exchange import HttpError
from task.errors import InputError

HEADER_TIMEOUT_S = 10.0
MAX_HEAD_BYTES = 65_536  # more than `http_exchange.MAX_HEADERS`, so that a request just above that is told so
_HOP_BY_HOP = (b"upgrade", b"http2-settings")


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with limits on request headers, and for clients that offer to upgrade to another protocol.

    A connection is closed whose request headers are not complete in time (slowloris), or are larger than
    `MAX_HEAD_BYTES`. uvicorn's own time-out applies between requests only; the body has the request's deadline.

    An offer to upgrade (`Upgrade: h2c`, which Java's HttpClient sends by default) is ignored, as HTTP allows (RFC 9110,
    section 7.8). uvicorn 0.54 ignores it as well, but for httptools 0.9 the body then belongs to the other protocol and
    is lost. Here such a request is parsed again without the offer.
    """

    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEADER_TIMEOUT_S, self._on_timeout)

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        self._unset_keepalive_if_required()
        timer = self._timer
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.parser.get_method() == b"CONNECT":
                self.send_400_response("CONNECT is not supported.")
            else:
                self._parse_without_offer(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        else:
            if timer is not None and timer is self._timer:  # all of it belongs to headers that are incomplete
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEAD_BYTES:
                    self._refuse_head()

    def _parse_without_offer(self, rest: bytes) -> None:
        """Parse a request's headers again with a new parser, without those that offer an upgrade, and then the rest."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        head = [method + b" " + self.url + b" HTTP/" + version]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [t.strip() for t in value.split(b",")]
                value = b", ".join(t for t in tokens if t.lower() not in _HOP_BY_HOP)
            if name not in _HOP_BY_HOP:
                head.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.data_received(b"\r\n".join([*head, b"", b""]))
        if rest and not self.transport.is_closing():
            self.data_received(rest)

    def _refuse_head(self) -> None:
        error = HttpError(
            431, kind="invalid_request_error", message=f"the headers are larger than {MAX_HEAD_BYTES} bytes"
        )
        text = error.body()
        lines = [
            b"HTTP/1.1 431 Request Header Fields Too Large", b"content-type: application/json",
            b"content-length: %d" % len(text), b"connection: close", b"", text,
        ]
        if self.cycle is None or self.cycle.response_complete:  # else it would be read as part of that response
            self.transport.write(b"\r\n".join(lines))
        self.transport.close()

    def on_message_begin(self) -> None:
        """Start the timer, which already runs for the first request of a connection."""
        super().on_message_begin()
        if self._timer is None:
            self._timer = self.loop.call_later(HEADER_TIMEOUT_S, self._on_timeout)

    def on_headers_complete(self) -> None:
        """Stop the timer, and start to answer, unless the request will be parsed again."""
        if self.parser.should_upgrade():
            return
        self._stop_timer()
        self._head_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note the end of the body."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def _on_timeout(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # the previous request is still being answered
            self._timer = self.loop.call_later(HEADER_TIMEOUT_S, self._on_timeout)
        else:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def server_config(app: Any, **more: Any) -> uvicorn.Config:
    """The settings of every HTTP server of ours; `more` are uvicorn's."""
    return uvicorn.Config(
        app, log_level="warning", access_log=False, http=GatewayProtocol, lifespan="off", ws="none",
        server_header=False, date_header=False, **more,
    )


class EmbeddedServer(uvicorn.Server):
    """A server that leaves signals to its caller, and balances connections where it is given `counts`."""

    def __init__(self, config: uvicorn.Config, counts: ConnectionCounts | None = None) -> None:
        super().__init__(config)
        self._counts = counts

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        counts = self._counts
        if counts is None or not sockets:
            await super().startup(sockets)
            return
        http: Any = self.config.http_protocol_class
        protocol = functools.partial(http, config=self.config, server_state=self.server_state, app_state={})
        open_now = self.server_state.connections
        self.servers: Any = [
            BalancedAcceptor(s, protocol, lambda: counts.surplus(len(open_now))) for s in sockets
        ]
        self.started = True


@contextlib.contextmanager
def listening(host: str, port: int, *, field: str = "--port") -> Iterator[socket.socket]:
    """A listening socket; raises `InputError` where the port is taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        try:
            listener.bind((host, port))
            listener.listen(2048)
        except OSError as error:
            raise InputError(
                f"cannot listen on {host}:{port}: {error.strerror or error}", field=field, found=port,
                fix="Choose a free port, or stop the process that holds this one",
            ) from error
        yield listener
    finally:
        listener.close()

"""A local HTTP server that stands for a service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Reads and answers requests without logging them; a service says how in `get` and `post`."""

    def do_GET(self) -> None:
        """Answer a GET request."""
        self.get()

    def do_POST(self) -> None:
        """Answer a POST request."""
        self.post()

    def get(self) -> None:
        """Answer a GET request."""
        self.send_error(404)

    def post(self) -> None:
        """Answer a POST request."""
        self.send_error(404)

    def body(self) -> bytes:
        """The request's body."""
        return self.rfile.read(int(self.headers["Content-Length"]))

    def reply(self, body: bytes, *, promised: int | None = None) -> None:
        """Answer 200 with `body`; `promised` is the length that is announced."""
        self.send_response(200)
        self.send_header("Content-Length", str(promised or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


@contextmanager
def listening(handler: type[Handler]) -> Iterator[str]:
    """The URL of a server with this handler."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()

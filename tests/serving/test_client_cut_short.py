"""A service that ends its answer early, or is not there, is an error with the number of queries, and no traceback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from engine.interface import EngineError
from serving.client import label_all
from task.labels import Example


@contextmanager
def service(body: bytes, *, promised: int | None = None) -> Iterator[str]:
    """Answers every request with `body`; `promised` is the length that it announces."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(promised or len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


LINE = b'{"index": 0, "labels": [], "probability": null}\n'


@pytest.mark.parametrize(("body", "promised", "said"), [
    (LINE, None, "the service answered 1 of 2 queries"),
    (LINE, 500, "the service answered 1 of 2 queries"),
    (LINE + b'{"index": 1, "lab', None, "the service did not answer 2 queries after 0 of 2: JSONDecodeError"),
])
def test_an_answer_that_ends_early_is_an_error(body: bytes, promised: int | None, said: str) -> None:
    with service(body, promised=promised) as url, pytest.raises(EngineError, match=said):
        label_all(url, [Example("a"), Example("b")], batch=64, done=lambda _: None)


def test_a_service_that_is_not_there_is_an_error() -> None:
    with pytest.raises(EngineError, match="the service did not answer 1 queries after 0 of 1: URLError"):
        label_all("http://127.0.0.1:9", [Example("a")], batch=64, done=lambda _: None)

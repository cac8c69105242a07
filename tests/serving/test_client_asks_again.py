"""Queries that a service did not answer in time are asked again, fewer at a time: labels are wanted, not latency."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from engine.interface import EngineError
from serving.client import label_all
from task.labels import Example, Label

ROWS = [Example(f"tea {i}") for i in range(40)]


@contextmanager
def slow(most: int) -> Iterator[tuple[str, list[int]]]:
    """A service that answers the first `most` queries of a request in time; gives its URL and the requests' sizes."""
    sizes: list[int] = []

    def line(index: int, query: str) -> dict[str, Any]:
        if index >= most:
            return {"index": index, "query": query, "error": {"message": "not answered by the deadline"}}
        label = {"role": "product", "text": query, "start": 0, "end": len(query)}
        return {"index": index, "labels": [label], "status": "ok", "probability": 0.5}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            sizes.append(len(queries))
            body = b"".join(json.dumps(line(i, q)).encode() + b"\n" for i, q in enumerate(queries))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", sizes
        finally:
            server.shutdown()


@pytest.mark.parametrize("most", [1, 3, 7, 40])
def test_every_query_gets_its_own_answer_in_order(most: int) -> None:
    counted: list[int] = []
    with slow(most) as (url, sizes):
        found = label_all(url, ROWS, batch=16, done=counted.append)
    assert [x.query for x in found] == [x.query for x in ROWS]
    assert all(x.labels == (Label("product", x.query, 0, len(x.query)),) for x in found)
    assert counted == [16, 16, 8]
    assert (sizes == [16, 16, 8]) == (most == 40)


def test_a_query_that_is_late_alone_is_an_error() -> None:
    with slow(0) as (url, _), pytest.raises(EngineError, match="no labels for 'tea 0': not answered by the deadline"):
        label_all(url, ROWS, batch=16, done=lambda _: None)

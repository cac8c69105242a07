"""Queries that a service did not answer are asked again once it is ready, fewer at a time: labels are wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from engine.interface import EngineError
from serving import client
from serving.client import label_all
from task.labels import Example, Label
from tests.serving.local_http import Handler, listening

ROWS = [Example(f"tea {i}") for i in range(40)]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAUSE_S", 0.0)


@contextmanager
def slow(most: int, *, down_from: int | None = None) -> Iterator[tuple[str, list[int]]]:
    """A service that answers the first `most` queries of a request in time; gives its URL and the requests' sizes.

    Args:
        down_from: Number of the request at which the engine dies: everything is refused until somebody has seen twice
            that the service is not ready.
    """
    sizes: list[int] = []
    down: list[int] = []

    def line(index: int, query: str) -> dict[str, Any]:
        if index >= most:
            return {"index": index, "query": query, "error": {"message": "not answered by the deadline"}}
        if down:
            return {"index": index, "query": query, "error": {"message": "the student is being started"}}
        label = {"role": "product", "text": query, "start": 0, "end": len(query)}
        return {"index": index, "labels": [label], "status": "ok", "probability": 0.5}

    class Service(Handler):
        def get(self) -> None:
            body = b'{"status": "degraded"}' if down else b'{"status": "ready"}'  # hits are answered meanwhile
            down[:] = down[1:]
            self.reply(body)

        def post(self) -> None:
            queries = json.loads(self.body())["queries"]
            if len(sizes) == down_from:
                down[:] = [0, 0]
            sizes.append(len(queries))
            self.reply(b"".join(json.dumps(line(i, q)).encode() + b"\n" for i, q in enumerate(queries)))

    with listening(Service) as url:
        yield url, sizes


@pytest.mark.parametrize("most", [1, 3, 7, 40])
def test_every_query_gets_its_own_answer_in_order(most: int) -> None:
    counted: list[int] = []
    with slow(most) as (url, sizes):
        found = label_all(url, ROWS, batch=16, done=counted.append)
    assert [x.query for x in found] == [x.query for x in ROWS]
    assert all(x.labels == (Label("product", x.query, 0, len(x.query)),) for x in found)
    assert counted == [16, 16, 8]
    assert (sizes == [16, 16, 8]) == (most == 40)


def test_while_the_engine_is_started_again_nothing_is_asked() -> None:
    with slow(40, down_from=1) as (url, sizes):
        found = label_all(url, ROWS, batch=16, done=lambda _: None)
    assert [x.query for x in found] == [x.query for x in ROWS]
    assert sizes == [16, 16, 4, 4, 4, 4, 8]


def test_a_service_that_stays_down_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_START_S", 0.0)
    with slow(40, down_from=1) as (url, _), pytest.raises(EngineError, match="was ready, and has not been for"):
        label_all(url, ROWS, batch=16, done=lambda _: None)


def test_a_query_that_is_late_alone_three_times_is_an_error() -> None:
    said = "no labels for 'tea 0': not answered by the deadline"
    with slow(0) as (url, sizes), pytest.raises(EngineError, match=said):
        label_all(url, ROWS, batch=16, done=lambda _: None)
    assert sizes == [16, 4, 1, 1, 1]

"""Batching of concurrent requests, and the server's answers to what it cannot take."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.openvino_server import Batches, Scores, Server

Prompts = list[list[int]]


class Recorder:
    """Scores that tell the token: row t of a prompt holds its token id. Remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[Prompts] = []
        self.fail = False

    def forward(self, prompts: Sequence[Sequence[int]]) -> list[Scores]:
        self.batches.append([list(p) for p in prompts])
        if self.fail:
            raise RuntimeError("out of memory")
        return [np.array(p, np.float32)[:, None] for p in prompts]


async def answered(recorder: Recorder, requests: Sequence[Prompts], rows: int) -> list[list[Scores] | BaseException]:
    batches = Batches(recorder.forward, rows=rows)
    computing = asyncio.create_task(batches.run())
    try:
        return await asyncio.gather(*(batches.scores(r) for r in requests), return_exceptions=True)
    finally:
        computing.cancel()


@given(
    st.lists(st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=30), max_size=12), min_size=1, max_size=6),
    st.integers(1, 8),
)
def test_every_request_gets_its_own_scores_in_order(requests: list[Prompts], rows: int) -> None:
    recorder = Recorder()
    found = asyncio.run(answered(recorder, requests, rows))
    assert [[s[:, 0].astype(int).tolist() for s in answer] for answer in found] == requests  # type: ignore[union-attr]
    assert all(len(batch) <= rows for batch in recorder.batches)
    assert sum(map(len, recorder.batches)) == sum(map(len, requests))


def test_a_single_query_does_not_wait_for_the_end_of_a_large_request() -> None:
    recorder = Recorder()
    large, single = [[1] * 10 for _ in range(100)], [[2] * 10]
    asyncio.run(answered(recorder, [large, single], rows=8))
    at = next(i for i, batch in enumerate(recorder.batches) if single[0] in batch)
    assert at == 0
    assert len(recorder.batches) > 10


def test_prompts_are_batched_by_tokens_with_their_padding() -> None:
    recorder = Recorder()
    asyncio.run(answered(recorder, [[[1] * 300, [1] * 2, [1] * 2, [1] * 200]], rows=64))
    assert [[len(p) for p in batch] for batch in recorder.batches] == [[2, 2], [200], [300]]


def test_on_a_slow_processor_a_pass_is_small_so_that_a_query_which_comes_meanwhile_waits_less() -> None:
    class Slow(Recorder):
        def forward(self, prompts: Sequence[Sequence[int]]) -> list[Scores]:
            time.sleep(0.002 * sum(map(len, prompts)))  # at most 500 tokens a second
            return super().forward(prompts)

    recorder = Slow()
    asyncio.run(answered(recorder, [[[1] * 10 for _ in range(100)]], rows=64))
    tokens = [10 * len(batch) for batch in recorder.batches]
    assert tokens[0] == 510
    assert min(tokens[1:-1]) >= 60
    assert max(tokens[1:]) <= 125  # a quarter of a second


def test_on_a_processor_that_is_fast_again_passes_grow() -> None:
    class Disturbed(Recorder):
        def forward(self, prompts: Sequence[Sequence[int]]) -> list[Scores]:
            time.sleep(0.0 if self.batches else 2.0)
            return super().forward(prompts)

    recorder = Disturbed()
    asyncio.run(answered(recorder, [[[1] * 10 for _ in range(400)]], rows=64))
    tokens = [10 * len(batch) for batch in recorder.batches]
    assert tokens[1] <= 70
    assert tokens[-2] >= 500


def test_an_error_fails_its_requests_and_not_the_server() -> None:
    async def run() -> None:
        recorder = Recorder()
        batches = Batches(recorder.forward, rows=4)
        computing = asyncio.create_task(batches.run())
        recorder.fail = True
        with pytest.raises(RuntimeError, match="out of memory"):
            await batches.scores([[1]] * 9)
        recorder.fail = False
        assert len(await batches.scores([[1]])) == 1
        assert len(recorder.batches) == 2  # the rest of the failed request was not computed
        computing.cancel()

    asyncio.run(run())


def test_nothing_more_is_computed_for_a_client_that_has_gone() -> None:
    async def run() -> None:
        recorder = Recorder()
        batches = Batches(recorder.forward, rows=1)
        gone = asyncio.create_task(batches.scores([[1]] * 50))
        await asyncio.sleep(0)
        gone.cancel()
        computing = asyncio.create_task(batches.run())
        await batches.scores([[2]])
        assert recorder.batches == [[[2]]]
        computing.cancel()

    asyncio.run(run())


def asked(body: bytes, path: str = "/pooling", method: str = "POST") -> httpx.Response:
    async def run() -> httpx.Response:
        batches = Batches(Recorder().forward, rows=4)
        computing = asyncio.create_task(batches.run())
        app: Any = Server(batches, name="student", max_tokens=5)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://engine") as client:
            try:
                return await client.request(method, path, content=body)
            finally:
                computing.cancel()

    return asyncio.run(run())


def test_scores_come_back_as_base64() -> None:
    response = asked(json.dumps({"model": "student", "input": [[3, 4], [5]]}).encode())
    rows = [np.frombuffer(base64.b64decode(r["data"]), np.float32).tolist() for r in response.json()["data"]]
    assert (response.status_code, rows) == (200, [[3.0, 4.0], [5.0]])


@pytest.mark.parametrize(("body", "told"), [
    (b"", "expected a JSON object"), (b"[]", "expected a JSON object"), (b'{"model": "student"}', "input"),
    (b'{"model": "other", "input": [[1]]}', "no model 'other' here"),
    (b'{"model": "student", "input": "text"}', "list of lists"),
    (b'{"model": "student", "input": [[]]}', "list of lists"),
    (b'{"model": "student", "input": [[true]]}', "list of lists"),
    (b'{"model": "student", "input": [[-1]]}', "list of lists"),
    (b'{"model": "student", "input": [[1, 1, 1, 1, 1, 1]]}', "more than 5 tokens"),
])
def test_what_it_cannot_take_is_told(body: bytes, told: str) -> None:
    response = asked(body)
    assert response.status_code == 400
    assert told in response.json()["error"]["message"]


def test_other_paths_are_not_there() -> None:
    assert asked(b"", "/v1/models").status_code == 404
    assert asked(b"", "/health", "GET").status_code == 200


def test_metrics_count_what_was_computed() -> None:
    async def run() -> str:
        batches = Batches(Recorder().forward, rows=4)
        computing = asyncio.create_task(batches.run())
        await batches.scores([[3, 4], [5], [6, 7, 8]])
        computing.cancel()
        app: Any = Server(batches, name="student", max_tokens=5)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://engine") as client:
            return (await client.get("/metrics")).text

    lines = asyncio.run(run()).splitlines()
    assert {"limbeck_engine_prompts_total 3.0", "limbeck_engine_tokens_total 6.0"} <= set(lines)
    assert {"limbeck_engine_forward_seconds_count 1.0", "limbeck_engine_waiting_prompts 0.0"} <= set(lines)

"""The gateway while its engine is down: what needs no engine goes on, what needs it says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving.bundle import build
from serving.engine import free_port
from serving.gateway import make_app
from task.codec import Codec
from task.labels import Example, Label
from task.spec import Task
from task.tokens import FastTokenizer

HEAD = [Example("Oat milk", (Label("product", "Oat milk", 0, 8, 0.9), Label("aisle", "dairy")))]


@pytest.fixture
def client(tmp_path: Path, task: Task, tiny_llama: Path, tokenizer: FastTokenizer) -> Iterator[TestClient]:
    bundle = build(tmp_path / "b", task, Codec.compile(task, [], tokenizer), tiny_llama, HEAD, {})
    with TestClient(make_app(bundle, f"http://127.0.0.1:{free_port()}")) as c:
        yield c


def test_cache_hits_keep_flowing_and_misses_are_refused(client: TestClient) -> None:
    hit = client.post("/v1/label", json={"query": "OAT  milk"})
    assert hit.status_code == 200
    (result,) = hit.json()["results"]
    assert result["source"] == "cache"
    assert [(x["role"], x["text"], x["start"], x["end"]) for x in result["labels"]] == [
        ("product", "OAT  milk", 0, 9), ("aisle", "dairy", None, None),
    ]
    miss = client.post("/v1/label", json={"query": "rice milk"})
    assert (miss.status_code, miss.headers["Retry-After"]) == (503, "1")
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert 'limbeck_failures_total{reason="engine"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize("body", [
    "{}", '{"query": "a", "queries": []}', '{"query": "\\ud800"}', '{"queries": ["a", "\\udfff"]}', "[]", "nonsense",
    '{"query": null}', '{"query": "a", "n": 5}', '{"query": "' + "x" * 10_000 + '"}', '{"queries": [1]}',
])
def test_malformed_requests_are_422_and_never_500(client: TestClient, body: str) -> None:
    response = client.post("/v1/label", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.json()["detail"]


def test_the_document_describes_the_api(client: TestClient) -> None:
    document: dict[str, Any] = client.get("/openapi.json").json()
    assert {"/v1/label", "/healthz", "/readyz", "/metrics"} <= document["paths"].keys()

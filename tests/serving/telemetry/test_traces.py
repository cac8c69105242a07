"""Spans of requests, as a collector receives them."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from serving.telemetry.traces import Traces
from task.errors import InputError
from tests.serving.conftest import Open

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP and keeps the spans."""

    spans: list[Any]

    def __init__(self) -> None:
        self.spans = []
        super().__init__(("127.0.0.1", 0), _Take)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/traces"


class _Take(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        import gzip

        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.spans += [s for scope in resource.scope_spans for s in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


def test_a_request_is_a_span_of_its_clients_trace(harness: Open, collector: Collector) -> None:
    async def run() -> None:
        async with harness() as h:
            h.gateway.traces = Traces(collector.url)
            await h.client.post(
                "/v1/label", json={"query": "OAT drink"}, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"}
            )
            await h.label("Oat milk")
            await h.client.get("/no/such/path")
            await asyncio.to_thread(h.gateway.traces.close)

    asyncio.run(run())
    mine, hit, other = collector.spans
    assert (mine.trace_id.hex(), mine.parent_span_id.hex(), mine.name) == (TRACE, SPAN, "POST /v1/label")
    assert attributes(mine)["limbeck.source"] == "student"
    assert attributes(mine)["http.response.status_code"] == 200
    assert (hit.parent_span_id, attributes(hit)["limbeck.source"]) == (b"", "cache")
    assert (other.name, attributes(other)["http.response.status_code"]) == ("_OTHER other", 404)
    assert 0 < mine.end_time_unix_nano - mine.start_time_unix_nano < 5e9
    assert not [a for s in collector.spans for a in attributes(s).values() if "oat" in str(a).lower()]


def test_a_share_of_what_comes_without_a_trace_and_all_that_is_asked_for(harness: Open, collector: Collector) -> None:
    async def run() -> None:
        async with harness() as h:
            h.gateway.traces = Traces(collector.url, share=0.0)
            await h.label("Oat milk")
            await h.client.post(
                "/v1/label", json={"query": "Oat milk"}, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"}
            )
            nonsense = {"traceparent": b"00-nonsense-\xff-01"}
            await h.client.post("/v1/label", json={"query": "Oat milk"}, headers=nonsense)
            await asyncio.to_thread(h.gateway.traces.close)

    asyncio.run(run())
    assert [s.trace_id.hex() for s in collector.spans] == [TRACE]


def test_a_collector_that_is_gone_delays_nobody(harness: Open) -> None:
    async def run() -> None:
        async with harness() as h:
            h.gateway.traces = Traces("http://127.0.0.1:9/v1/traces")
            for _ in range(20):
                assert (await h.label("Oat milk")).status_code == 200
            async with asyncio.timeout(10):
                await asyncio.to_thread(h.gateway.traces.close)

    asyncio.run(run())


def test_without_the_package_the_setting_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(InputError, match=r"serving\.traces: .*pip install opentelemetry-sdk"):
        Traces("http://127.0.0.1:4318/v1/traces")

"""OpenTelemetry: a span for each request, sent to the collector that `serving.traces` names.

A client's `traceparent` makes our span part of its trace. Spans leave from a thread of their own; where the collector
is slow or gone they are dropped, and no request waits.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from serving.gateway.http_exchange import Exchange
from task.errors import InputError

_CLOSE_S = 2.0
_NOTED = {"source": "limbeck.source", "result": "limbeck.status", "bundle": "limbeck.bundle",
          "queries": "limbeck.queries", "refused": "limbeck.refused", "key": "limbeck.key"}


class Traces:
    """Makes spans of requests that have been answered."""

    def __init__(self, collector: str, share: float = 1.0) -> None:
        """Prepare to send.

        Args:
            collector: Where OTLP over HTTP is taken, such as `http://127.0.0.1:4318/v1/traces`.
            share: Of the requests that come without a trace of their own.

        Raises:
            InputError: OpenTelemetry is not installed.
        """
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise InputError(
                f"cannot send traces: {error}", field="serving.traces", found=collector,
                fix="Run `pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http`",
            ) from error
        self._provider: Any = TracerProvider(
            resource=Resource.create({"service.name": "limbeck"}), sampler=ParentBased(TraceIdRatioBased(share))
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector, timeout=5)))
        self._tracer: Any = self._provider.get_tracer("limbeck.gateway")
        self._api: Any = trace
        self._propagator: Any = TraceContextTextMapPropagator()

    def add(self, exchange: Exchange, path: str, seconds: float) -> None:
        """Note a request that took so long and ends now; its text is no part of the span."""
        came = {k: exchange.headers[k.encode()].decode("latin-1") for k in ("traceparent", "tracestate")
                if k.encode() in exchange.headers}
        ended = time.time_ns()
        method = exchange.scope["method"] if path != "other" else "_OTHER"
        span = self._tracer.start_span(
            f"{method} {path}", self._propagator.extract(came), self._api.SpanKind.SERVER,
            start_time=ended - round(1e9 * seconds), attributes={
                "http.request.method": method, "http.route": path, "http.response.status_code": exchange.status,
                "limbeck.request_id": exchange.id.decode(),
                **{name: exchange.notes[k] for k, name in _NOTED.items() if k in exchange.notes},
            },
        )
        if exchange.status >= 500:
            span.set_status(self._api.Status(self._api.StatusCode.ERROR))
        span.end(ended)

    def close(self) -> None:
        """Send what is left, for as long as one may wait for that."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(_CLOSE_S)

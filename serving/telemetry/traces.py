"""OpenTelemetry: a span for each request, sent to the collector that `serving.traces` names.

A client's `traceparent` makes the span part of its trace. A background thread sends the spans; where the collector is
slow or down they are dropped, and no request waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from task.errors import InputError

_CLOSE_S = 2.0
_ATTRIBUTES = {"source": "limbeck.source", "result": "limbeck.status", "bundle": "limbeck.bundle",
               "queries": "limbeck.queries", "refused": "limbeck.refused", "key": "limbeck.key"}


class Traces:
    """Makes and sends the spans of requests."""

    def __init__(self, collector: str, share: float = 1.0) -> None:
        """Prepare to send.

        Args:
            collector: URL that takes OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`.
            share: Share of the requests without a `traceparent` that get a trace.

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

    def add(
        self, *, method: str, path: str, status: int, seconds: float, request_id: str, headers: Mapping[bytes, bytes],
        notes: Mapping[str, Any],
    ) -> None:
        """Add the span of a request that ends now; the query's text is no part of it.

        Args:
            path: A path of the API, or `other`.
            headers: Of the request, with names in lower case.
            notes: What the gateway noted about it; those of `_ATTRIBUTES` become attributes of the span.
        """
        context = {k: headers[k.encode()].decode("latin-1") for k in ("traceparent", "tracestate")
                   if k.encode() in headers}
        ended = time.time_ns()
        method = method if path != "other" else "_OTHER"
        span = self._tracer.start_span(
            f"{method} {path}", self._propagator.extract(context), self._api.SpanKind.SERVER,
            start_time=ended - round(1e9 * seconds), attributes={
                "http.request.method": method, "http.route": path, "http.response.status_code": status,
                "limbeck.request_id": request_id,
                **{name: notes[k] for k, name in _ATTRIBUTES.items() if k in notes},
            },
        )
        if status >= 500:
            span.set_status(self._api.Status(self._api.StatusCode.ERROR))
        span.end(ended)

    def close(self) -> None:
        """Send what is left, for at most two seconds."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(_CLOSE_S)

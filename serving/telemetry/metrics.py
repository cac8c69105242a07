"""Prometheus metrics. With PROMETHEUS_MULTIPROC_DIR set, those of all worker processes are added up."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from serving.telemetry.drift_gauges import DriftGauges
from serving.telemetry.refusal_counts import RefusalCounts

BUCKETS = (
    0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.075,
    0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1, 2, 5, 10,
)


@dataclass(frozen=True, slots=True)
class EngineState:
    """What is known of the engine of one bundle.

    Attributes:
        up: Whether it may be asked: it answers, and has passed its check since it was last started.
        restarts: How often it was started again since the service serves the bundle.
    """

    bundle: str
    up: bool
    restarts: int


class _Engines(Collector):
    """Metrics of the engines as they are now; each process knows all of them, so that nothing is added up."""

    def __init__(self, engines: Iterable[EngineState]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "limbeck_engine_up", "1 while the bundle's engine answers and has passed its check, else 0",
            labels=["bundle"],
        )
        restarts = CounterMetricFamily("limbeck_engine_restarts", "Restarts of the bundle's engine", labels=["bundle"])
        for engine in self._engines:
            up.add_metric([engine.bundle], engine.up)
            restarts.add_metric([engine.bundle], engine.restarts)
        yield up
        yield restarts


class Metrics:
    """The metrics of one process.

    Args:
        state: The service's state folder; None where there is none.

    Attributes:
        engines: The engines of the bundles that are served, and of one on trial.
    """

    def __init__(self, state: Path | None = None) -> None:
        self._state = state
        self.engines: tuple[EngineState, ...] = ()
        r = self._registry = CollectorRegistry()
        self._series: dict[tuple[Any, ...], Any] = {}
        self.requests = Counter("limbeck_requests", "Requests answered", ["path", "status"], registry=r)
        self.seconds = Histogram(
            "limbeck_request_seconds", "Seconds from the request's head to the end of its answer", ["path", "source"],
            buckets=BUCKETS, registry=r,
        )
        self.answers = Counter(
            "limbeck_answers", "Queries answered; the cache's share of them is the hit rate by traffic",
            ["bundle", "source", "status"], registry=r,
        )
        self.invalid = Counter(
            "limbeck_invalid", "Answers of the student or its engine that cannot be used, by kind", ["bundle", "kind"],
            registry=r,
        )
        self.refused = Counter("limbeck_refused", "Requests refused", ["reason"], registry=r)
        self.consulted = Counter(
            "limbeck_consulted", "Queries with uncertain labels for the live teacher", ["outcome"], registry=r
        )
        self.shadowed = Counter(
            "limbeck_shadow", "Queries sent to the bundle on trial as well", ["bundle", "result"], registry=r
        )
        self.captured = Counter("limbeck_captured", "Rows of captures written", ["bundle"], registry=r)
        self.feedback = Counter(
            "limbeck_feedback", "Feedback kept, by the bundle whose answer is meant (`other`: none that is served)",
            ["bundle", "kind"], registry=r,
        )
        self.waiting = Gauge(
            "limbeck_waiting", "Queries that wait for the student", multiprocess_mode="livesum", registry=r
        )
        self.lost = Gauge(
            "limbeck_lost", "Log lines, captures and kept answers that could not be written", ["what"],
            multiprocess_mode="livesum", registry=r,
        )

    def count(self, counter: Counter, *labels: object) -> None:
        """Add one; the labelled series is looked up here, in a third of the time that the library takes."""
        self._of(counter, labels).inc()

    def observe(self, histogram: Histogram, seconds: float, *labels: object) -> None:
        """Record a duration."""
        self._of(histogram, labels).observe(seconds)

    def _of(self, metric: Counter | Histogram, labels: tuple[object, ...]) -> Any:
        found = self._series.get((metric, labels))
        if found is None:
            found = self._series[metric, labels] = metric.labels(*labels)
        return found

    def text(self) -> bytes:
        """Prometheus' text format: all processes where they share a folder, else this one."""
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder is None:
            return generate_latest(self._registry)
        return all_processes(folder, self.engines, state=self._state)


def all_processes(folder: str, engines: Iterable[EngineState], *, state: Path | None = None) -> bytes:
    """The metrics of all processes that share a folder, of engines, drift and refusals, in Prometheus' text format.

    Args:
        state: The service's state folder, with the verdicts on drift and the refusals of bundles.
    """
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    registry.register(_Engines(engines))
    if state is not None:
        registry.register(DriftGauges(state))
        registry.register(RefusalCounts(state))
    return generate_latest(registry)

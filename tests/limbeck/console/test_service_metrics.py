from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from limbeck.console.service_metrics import figures_of, percentile
from serving.telemetry.drift_gauges import publish
from serving.telemetry.metrics import BUCKETS, Metrics, all_processes
from serving.telemetry.refusal_counts import count_refusal

VERDICT = {
    "drifted": True, "round": False, "about": {"last": 1_700_000_000.0},
    "figures": {"queries": {"change": {"value": 0.25}, "adjusted": 0.004}},
}


@given(st.lists(st.floats(1e-5, 20.0), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_percentile_is_in_the_bucket_of_the_true_one(values: list[float], quantile: float) -> None:
    buckets = [(bound, float(sum(v <= bound for v in values))) for bound in (*BUCKETS, math.inf)]
    found = percentile(buckets, quantile)
    true = sorted(values)[max(0, math.ceil(quantile * len(values) - 1e-9) - 1)]
    bounds = [0.0, *BUCKETS, math.inf]
    place = next(i for i, bound in enumerate(bounds[1:]) if true <= bound)
    assert found is not None
    assert bounds[place] - 1e-12 <= found <= bounds[place + 1] + 1e-12


@given(st.lists(st.floats(1e-5, 20.0), min_size=1, max_size=50))
def test_percentiles_do_not_fall(values: list[float]) -> None:
    buckets = [(bound, float(sum(v <= bound for v in values))) for bound in (*BUCKETS, math.inf)]
    found = [percentile(buckets, q / 20) for q in range(1, 21)]
    assert found == sorted(found, key=lambda x: x or 0.0)


def test_a_percentile_is_interpolated_and_one_of_nothing_is_none() -> None:
    assert percentile([(1.0, 0.0), (2.0, 10.0), (math.inf, 10.0)], 0.5) == 1.5
    assert percentile([(1.0, 0.0), (math.inf, 3.0)], 0.5) == math.inf
    assert percentile([(1.0, 0.0), (math.inf, 0.0)], 0.5) is None
    assert percentile([], 0.5) is None


def test_the_figures_are_those_that_the_service_counted(tmp_path: Path) -> None:
    metrics = Metrics()
    for source, times in (("cache", 6), ("kept", 2), ("student", 2)):
        for _ in range(times):
            metrics.count(metrics.answers, "abc", source, "ok" if source != "student" else "uncertain")
            metrics.observe(metrics.seconds, 0.0012 if source == "cache" else 0.09, "/v1/label", source)
    metrics.observe(metrics.seconds, 99.0, "/v1/label:batch", "student")
    metrics.observe(metrics.seconds, 0.01, "/metrics", "")
    metrics.count(metrics.refused, "rate")
    metrics.count(metrics.invalid, "abc", "rule")
    metrics.count(metrics.captured, "abc")
    metrics.waiting.set(3)
    found = figures_of(metrics.text().decode())
    (answers,) = found.answers
    assert (answers.bundle, answers.total, answers.hit_rate) == ("abc", 10, 0.8)
    assert answers.statuses == {"ok": 8, "uncertain": 2}
    latency = {(x.path, x.source): x for x in found.latency}
    assert latency.keys() == {
        ("/v1/label", "cache"), ("/v1/label", "kept"), ("/v1/label", "student"), ("/v1/label:batch", "student"),
    }
    assert all(0.001 <= s <= 0.0015 for s in latency["/v1/label", "cache"].seconds)
    assert latency["/v1/label:batch", "student"].seconds == (math.inf,) * 3
    assert (found.refused, found.captured, found.waiting) == ({"rate": 1}, {"abc": 1}, 3)
    assert found.invalid == (("abc", "rule", 1),)


def test_drift_and_refusals_of_the_state_folder_are_shown(tmp_path: Path) -> None:
    publish(tmp_path, "shop", VERDICT)
    count_refusal(tmp_path, "abc", "abstained")
    (tmp_path / "metrics").mkdir()
    found = figures_of(all_processes(str(tmp_path / "metrics"), (), state=tmp_path).decode())
    (drift,) = found.drift
    assert (drift.task, drift.drifted, drift.worth_a_round, drift.last) == ("shop", True, False, 1_700_000_000.0)
    assert drift.figures == (("queries", 0.25, 0.004),)
    assert found.canaries_refused == (("abc", "abstained", 1),)
    assert found.answers == ()


def test_what_are_no_metrics_of_a_service_is_an_error() -> None:
    registry = CollectorRegistry()
    Histogram("other_seconds", "Of something else", registry=registry).observe(1.0)
    for text in ("<html>", generate_latest(registry).decode(), ""):
        with pytest.raises(ValueError, match=r"."):
            figures_of(text)

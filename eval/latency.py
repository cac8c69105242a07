"""Latency figures of load runs: percentiles with intervals for hits, misses and all requests, and their validity.

An error counts as infinitely slow. A run whose generator could not keep its schedule is invalid. A percentile is given
only where there are enough samples for it, and percentiles are never averaged: they are taken of all raw samples, or of
an HDR histogram. Cache hits would hide the student in a single figure, so hits, misses and all requests are reported
separately.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from eval.arrivals import ArrivalPlan
from eval.bootstrap import estimate
from eval.latency_schema import (
    CacheGroups,
    LatencyGroup,
    LatencyHead,
    LatencySummary,
    Percentiles,
    RunPercentiles,
    SloShare,
    TokenTimes,
    percentile_of,
)
from eval.load_samples import Samples, joined
from eval.quality_schema import Estimate

Percentile = Literal["p50", "p95", "p99"]
NAMES: Final[tuple[Percentile, ...]] = ("p50", "p95", "p99")
MIN_ACHIEVED: Final = 0.99
LATE_S: Final = 0.1
MIN_REPEATS: Final = 5
# Samples below which a percentile has no upper 95 % confidence bound: smallest n with 1 - p^n >= 0.95.
MIN_SAMPLES: Final[Mapping[str, int]] = {"p50": 5, "p95": 59, "p99": 299}
_HDR: Final = (1, 3_600_000_000, 3)  # microseconds from 1 to an hour, three digits
_DRIFT: Final = 2.0  # slower by this factor at the end of a run than at its start
_DRIFT_LEAST_S: Final = 0.02
_QUEUED: Final = 4.0  # so many may be unanswered by chance where a server keeps up with random arrivals


def percentiles(seconds: Sequence[float] | npt.NDArray[np.float64]) -> Percentiles:
    """Count, errors and percentiles in ms with distribution-free 95 % intervals (order statistics)."""
    values = np.sort(np.asarray(seconds, dtype=np.float64))
    p50, p95, p99 = (_percentile(values, name) for name in NAMES)
    return {
        "count": len(values), "errors": int(np.isinf(values).sum()), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99,
    }


def _percentile(ordered: npt.NDArray[np.float64], name: Percentile) -> Estimate | None:
    n, p = len(ordered), int(name[1:]) / 100
    if n < MIN_SAMPLES[name]:
        return None
    spread = 1.96 * np.sqrt(n * p * (1 - p))
    ranks = [np.clip(round(n * p + d), 0, n - 1) for d in (0, -spread, spread)]
    return _milliseconds(*(float(ordered[int(r)]) for r in ranks))


def over_repeats(runs: Sequence[npt.NDArray[np.float64]]) -> RunPercentiles:
    """Percentiles of repeated runs: those of all samples, with intervals that include the variance between runs.

    Order statistics assume independent samples; within a run they are correlated, as a busy second slows down all of
    its requests. From five runs on, each with enough samples, the interval is Student's t over the runs' own
    percentiles, centred at the percentile of all samples.
    """
    whole = percentiles(np.concatenate(list(runs)) if runs else np.zeros(0))
    p50, p95, p99 = (_over_runs(runs, name, whole) for name in NAMES)
    return {
        "count": whole["count"], "errors": whole["errors"], "p50_ms": p50, "p95_ms": p95, "p99_ms": p99,
        "runs": len(runs),
    }


def _over_runs(runs: Sequence[npt.NDArray[np.float64]], name: Percentile, whole: Percentiles) -> Estimate | None:
    pooled = percentile_of(whole, name)
    if len(runs) < MIN_REPEATS or min(len(r) for r in runs) < MIN_SAMPLES[name]:
        return pooled
    own = [percentile_of(percentiles(r), name) for r in runs]
    values = [p["value"] for p in own if p is not None and p["value"] is not None]
    if len(values) < len(runs) or pooled is None or pooled["value"] is None:
        return pooled
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))) / 1e3
    at = pooled["value"] / 1e3
    return _milliseconds(at, max(0.0, at - half), at + half)


def summarise(
    runs: Sequence[tuple[ArrivalPlan, Samples]], *, slo_ms: float | None = None, kinds: bool = True
) -> LatencySummary:
    """All latency figures of runs of one plan (or of several plans with the same rate).

    Args:
        slo_ms: Add the share of requests answered within it, and their number per second (goodput).
        kinds: Whether the server distinguishes cache hits from misses.

    Returns:
        Validity, rates and the generator's own figures; for `hit`, `miss` and `blended` what `over_repeats` gives, with
        an HDR histogram; TTFT and TPOT where answers were streamed.
    """
    whole = joined([s for _, s in runs])
    seconds = sum(p.seconds for p, _ in runs)
    groups: CacheGroups = {}
    if kinds:
        groups = {
            "hit": _group([s.latency[s.hit] for _, s in runs], slo_ms, seconds),
            "miss": _group([s.latency[~s.hit] for _, s in runs], slo_ms, seconds),
        }
    return {
        **_head(runs, whole, seconds), **groups, "blended": _group([s.latency for _, s in runs], slo_ms, seconds),
        **_token_times(whole),
    }


def unqueued(samples: Samples) -> npt.NDArray[np.float64]:
    """Latencies of the requests during which no other was on its way: what an idle server would take, in seconds.

    Args:
        samples: The requests of one run, by scheduled time.
    """
    ends = samples.scheduled + samples.latency
    free = np.concatenate(([-np.inf], np.maximum.accumulate(ends)[:-1])) <= samples.scheduled
    undisturbed = ends <= np.append(samples.scheduled[1:], np.inf)
    found: npt.NDArray[np.float64] = samples.latency[free & undisturbed]
    return found


def _head(runs: Sequence[tuple[ArrivalPlan, Samples]], whole: Samples, seconds: float) -> LatencyHead:
    """Whether the runs are valid, offered and achieved rate, and the figures of the generator."""
    planned = sum(len(p) for p, _ in runs)
    late = float((whole.delay > LATE_S).mean()) if len(whole) else 1.0
    ends = [float((s.scheduled + s.latency)[np.isfinite(s.latency)].max(initial=p.seconds)) for p, s in runs]
    answered = int(np.isfinite(whole.latency).sum())
    problem = None
    if not planned:
        problem = "no request was due: the rate is too low, or the time too short"
    elif 1 - late < MIN_ACHIEVED:
        problem = (
            f"only {1 - late:.1%} of the requests left within {1e3 * LATE_S:.0f} ms of their time: the generator was "
            "too slow; lower the rate, or give it more processes"
        )
    delays = whole.delay[np.isfinite(whole.delay)]
    p50, p99 = (round(1e3 * float(np.quantile(delays, q)), 3) if len(delays) else None for q in (0.5, 0.99))
    return {
        "valid": problem is None, "problem": problem, "saturated": any(saturated(s) for _, s in runs),
        "offered_rate": runs[0][0].rate if runs else 0.0, "seconds": round(seconds, 3), "requests": planned,
        "achieved_rate": round(answered / max(sum(ends), 1e-9), 3), "sent_in_time": round(1 - late, 5),
        "dispatch_delay_ms": {"p50": p50, "p99": p99},
        "generator_cpu": round(float(whole.cpu.sum()) / max(seconds, 1e-9), 3),
        "statuses": {str(k): int(n) for k, n in zip(*np.unique(whole.status, return_counts=True), strict=True)},
        "invalid_answers": int(whole.invalid.sum()),
    }


def _token_times(whole: Samples) -> TokenTimes:
    streamed = np.isfinite(whole.first)
    if not streamed.any():
        return {}
    many = streamed & (whole.tokens > 1)
    return {
        "ttft": percentiles(whole.first[streamed]),
        "tpot": percentiles((whole.latency - whole.first)[many] / (whole.tokens[many] - 1)),
    }


def _group(runs: Sequence[npt.NDArray[np.float64]], slo_ms: float | None, seconds: float) -> LatencyGroup:
    values = np.concatenate(list(runs)) if runs else np.zeros(0)
    slo: SloShare = {}
    if slo_ms is not None and len(values):
        within = int((values * 1e3 <= slo_ms).sum())
        slo = {
            "slo_ms": slo_ms, "within_slo": round(within / len(values), 6), "goodput": round(within / seconds, 3),
        }
    return {**over_repeats(runs), "hdr": hdr(values), **slo}


def saturated(samples: Samples) -> bool:
    """Whether the server was saturated: a tenth failed, or it slowed down and the queue had grown when the run ended.

    Slowed down means that the last quarter was at least twice as slow as the first. The medians of quarters are
    compared, so that a single stall does not count; a stall that fills most of a quarter of a short run does, and so
    does another program that slows the server for a while, though it keeps up with the arrivals. Therefore the queue is
    looked at as well: it has grown if, when the last request was due, more requests were unanswered by `_QUEUED` than
    in the first quarter on average (rate × latency, Little's law).
    """
    if len(samples) < 20:
        return False
    if np.isinf(samples.latency).mean() > 0.1:
        return True
    quarter = len(samples) // 4
    early, late = (float(np.median(x)) for x in (samples.latency[:quarter], samples.latency[-quarter:]))
    due, end = samples.scheduled, float(samples.scheduled.max())
    unanswered = int(((due + samples.latency > end) & np.isfinite(samples.latency)).sum())
    before = early * len(samples) / max(end - float(due.min()), 1e-9)
    return late > _DRIFT * early and late - early > _DRIFT_LEAST_S and unanswered - before >= _QUEUED


def hdr(seconds: npt.NDArray[np.float64]) -> str | None:
    """An HDR histogram in microseconds, V2 encoding in base64; errors count as an hour. None without samples."""
    from hdrh.histogram import HdrHistogram

    if not len(seconds):
        return None
    histogram = HdrHistogram(*_HDR)
    micros = np.clip(np.where(np.isfinite(seconds), seconds * 1e6, _HDR[1]), _HDR[0], _HDR[1]).astype(np.int64)
    for value, count in zip(*np.unique(micros, return_counts=True), strict=True):
        histogram.record_value(int(value), int(count))
    encoded = histogram.encode()
    return encoded.decode() if isinstance(encoded, bytes) else str(encoded)


def slower_by(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> Estimate:
    """Latency of `a` minus that of `b` in ms: the median over pairs, its interval from order statistics.

    Args:
        a: Seconds, infinite for an error; shape (pairs,).
        b: The same queries, asked alternately with those of `a`. A slow query or a disturbance of the machine affects
            both sides of a pair and cancels out, as it would not between the medians of the two sides.
    """
    with np.errstate(invalid="ignore"):
        return _milliseconds(*_median(np.where(np.isinf(a) & np.isinf(b), 0.0, a - b)))


def times_as_slow(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> Estimate:
    """The same as a relative difference: 0.2 means that `a` takes 20 % longer than `b` for the same query."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.expm1(_median(np.where(np.isinf(a) & np.isinf(b), 0.0, np.log(a) - np.log(b))))
    return estimate(*(float(x) for x in np.where(np.isinf(share), np.nan, share)))


def _median(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """The median and its 95 % interval, NaN without values."""
    n, ordered = len(values), np.sort(values)
    if not n:
        return np.nan, np.nan, np.nan
    half = 1.96 * np.sqrt(n) / 2
    low, high = (ordered[int(np.clip(round((n - 1) / 2 + d), 0, n - 1))] for d in (-half, half))
    return float(np.median(ordered)), float(low), float(high)


def _milliseconds(value: float, low: float, high: float) -> Estimate:
    """Seconds as an estimate in ms; None for what is infinite."""
    value_ms, low_ms, high_ms = (round(1e3 * v, 3) if np.isfinite(v) else None for v in (value, low, high))
    return {"value": value_ms, "low": low_ms, "high": high_ms}

"""What a load run says: percentiles with intervals, apart for hits and misses, and whether it may be believed.

An error is infinitely slow. A run that could not keep its schedule is invalid, not merely slow. A percentile stands
only where there are enough samples for it, and percentiles are never averaged: they are taken of all raw samples, or of
an HDR histogram. Blended, the student would vanish behind its cache; so hits, misses and all are three rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from eval.arrivals import Plan
from eval.bootstrap import figure
from eval.load_generator import Samples, joined

MIN_ACHIEVED: Final = 0.99
LATE_S: Final = 0.1
MIN_REPEATS: Final = 5
# Samples below which a percentile has no upper 95 % confidence bound: smallest n with 1 - p^n >= 0.95.
MIN_SAMPLES: Final = {"p50": 5, "p95": 59, "p99": 299}
_HDR: Final = (1, 3_600_000_000, 3)  # microseconds from 1 to an hour, three digits
_DRIFT: Final = 2.0  # times as slow at the end as at the start: a queue grows
_DRIFT_LEAST_S: Final = 0.02


def percentiles(seconds: Sequence[float] | npt.NDArray[np.float64]) -> dict[str, Any]:
    """Count, errors and percentiles in ms with distribution-free 95 % intervals (order statistics)."""
    values = np.sort(np.asarray(seconds, dtype=np.float64))
    out: dict[str, Any] = {"count": len(values), "errors": int(np.isinf(values).sum())}
    for name, least in MIN_SAMPLES.items():
        p = int(name[1:]) / 100
        if len(values) < least:
            out[f"{name}_ms"] = None
            continue
        spread = 1.96 * np.sqrt(len(values) * p * (1 - p))
        ranks = [np.clip(round(len(values) * p + d), 0, len(values) - 1) for d in (0, -spread, spread)]
        out[f"{name}_ms"] = _figure(*(float(values[int(r)]) for r in ranks))
    return out


def over_repeats(runs: Sequence[npt.NDArray[np.float64]]) -> dict[str, Any]:
    """The same of repeated runs: the percentile of all samples, and an interval that knows how runs differ.

    Order statistics take every sample for independent; within a run they are not, for a busy second is busy for all.
    From five runs on, each with enough samples, the interval is Student's t over the runs' own percentiles around that
    of all samples.
    """
    out = percentiles(np.concatenate(list(runs)) if runs else np.zeros(0))
    out["runs"] = len(runs)
    if len(runs) < MIN_REPEATS:
        return out
    from scipy.stats import t

    for name, least in MIN_SAMPLES.items():
        own = [percentiles(r)[f"{name}_ms"] for r in runs]
        values = [p["value"] for p in own if p is not None and p["value"] is not None]
        if len(values) < len(runs) or out[f"{name}_ms"] is None or min(len(r) for r in runs) < least:
            continue
        half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))) / 1e3
        at = out[f"{name}_ms"]["value"] / 1e3
        out[f"{name}_ms"] = _figure(at, max(0.0, at - half), at + half)
    return out


def summarise(
    runs: Sequence[tuple[Plan, Samples]], *, slo_ms: float | None = None, kinds: bool = True
) -> dict[str, Any]:
    """Everything about runs of one plan (or of several with the same rate).

    Args:
        slo_ms: Say what share of the requests was answered within it, and how many a second (goodput).
        kinds: Whether the server tells hits from misses.

    Returns:
        JSON-ready: `valid` and `problem`; `saturated`; offered and achieved rate, what left in time, dispatch delay,
        processor share of the generator; and by kind (`hit`, `miss`, `blended`) what `over_repeats` gives, with an
        `hdr` histogram in V2 encoding. TTFT and TPOT where answers were streamed.
    """
    whole = joined([s for _, s in runs])
    planned = sum(len(p) for p, _ in runs)
    seconds = sum(p.seconds for p, _ in runs)
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
    out: dict[str, Any] = {
        "valid": problem is None, "problem": problem, "saturated": any(saturated(s) for _, s in runs),
        "offered_rate": runs[0][0].rate if runs else 0.0, "seconds": round(seconds, 3), "requests": planned,
        "achieved_rate": round(answered / max(sum(ends), 1e-9), 3), "sent_in_time": round(1 - late, 5),
        "dispatch_delay_ms": {
            name: round(1e3 * float(np.quantile(delays, q)), 3) if len(delays) else None
            for name, q in (("p50", 0.5), ("p99", 0.99))
        },
        "generator_cpu": round(float(whole.cpu.sum()) / max(seconds, 1e-9), 3),
        "statuses": {str(k): int(n) for k, n in zip(*np.unique(whole.status, return_counts=True), strict=True)},
    }
    groups = [("hit", True), ("miss", False)] if kinds else []
    for name, is_hit in groups:
        out[name] = _kind([s.latency[s.hit == is_hit] for _, s in runs], slo_ms, seconds)
    out["blended"] = _kind([s.latency for _, s in runs], slo_ms, seconds)
    streamed = np.isfinite(whole.first)
    if streamed.any():
        out["ttft"] = percentiles(whole.first[streamed])
        many = streamed & (whole.tokens > 1)
        out["tpot"] = percentiles((whole.latency - whole.first)[many] / (whole.tokens[many] - 1))
    return out


def _kind(runs: Sequence[npt.NDArray[np.float64]], slo_ms: float | None, seconds: float) -> dict[str, Any]:
    values = np.concatenate(list(runs)) if runs else np.zeros(0)
    found = over_repeats(runs) | {"hdr": hdr(values)}
    if slo_ms is not None and len(values):
        within = int((values * 1e3 <= slo_ms).sum())
        found |= {"slo_ms": slo_ms, "within_slo": round(within / len(values), 6), "goodput": round(within / seconds, 3)}
    return found


def saturated(samples: Samples) -> bool:
    """Whether the server fell behind: a tenth failed, or the last quarter was at least twice as slow as the first.

    The medians of quarters are compared, so that a single stall is not taken for a queue that grows.
    """
    if len(samples) < 20:
        return False
    if np.isinf(samples.latency).mean() > 0.1:
        return True
    quarter = len(samples) // 4
    early, late = (float(np.median(x)) for x in (samples.latency[:quarter], samples.latency[-quarter:]))
    return late > _DRIFT * early and late - early > _DRIFT_LEAST_S


def hdr(seconds: npt.NDArray[np.float64]) -> str | None:
    """An HDR histogram in microseconds, V2 encoding in base64, as its tools read it; errors count as an hour."""
    from hdrh.histogram import HdrHistogram

    if not len(seconds):
        return None
    histogram = HdrHistogram(*_HDR)
    micros = np.clip(np.where(np.isfinite(seconds), seconds * 1e6, _HDR[1]), _HDR[0], _HDR[1]).astype(np.int64)
    for value, count in zip(*np.unique(micros, return_counts=True), strict=True):
        histogram.record_value(int(value), int(count))
    encoded = histogram.encode()
    return encoded.decode() if isinstance(encoded, bytes) else str(encoded)


def slower_by(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> Mapping[str, float | None]:
    """How much longer `a` takes than `b`, in ms: the median over pairs, its interval from order statistics.

    Args:
        a: Seconds, infinite for an error; shape (pairs,).
        b: The same queries, asked in turns with those of `a`. What makes a query or a moment slow is in both sides of a
            pair and cancels out, which it does not between the medians of the two sides.
    """
    with np.errstate(invalid="ignore"):
        return _figure(*_median(np.where(np.isinf(a) & np.isinf(b), 0.0, a - b)))


def times_as_slow(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> Mapping[str, float | None]:
    """The same as a share: 0.2 means that an answer of `a` takes a fifth longer than the same one of `b`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.expm1(_median(np.where(np.isinf(a) & np.isinf(b), 0.0, np.log(a) - np.log(b))))
    return figure(*(float(x) for x in np.where(np.isinf(share), np.nan, share)))


def _median(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """The median and its 95 % interval, NaN without values."""
    n, ordered = len(values), np.sort(values)
    if not n:
        return np.nan, np.nan, np.nan
    half = 1.96 * np.sqrt(n) / 2
    low, high = (ordered[int(np.clip(round((n - 1) / 2 + d), 0, n - 1))] for d in (-half, half))
    return float(np.median(ordered)), float(low), float(high)


def _figure(value: float, low: float, high: float) -> dict[str, float | None]:
    """Seconds as `{"value", "low", "high"}` in ms; None for what is infinite."""
    numbers = {"value": value, "low": low, "high": high}
    return {k: round(1e3 * v, 3) if np.isfinite(v) else None for k, v in numbers.items()}

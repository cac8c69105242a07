"""Types of latency figures: percentiles, groups by cache hit, load runs, a benchmark."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from eval.quality_schema import Estimate


class Percentiles(TypedDict):
    """Latency percentiles in ms; None where there are too few samples."""

    count: int
    errors: int
    p50_ms: Estimate | None
    p95_ms: Estimate | None
    p99_ms: Estimate | None


class RunPercentiles(Percentiles):
    """The same over `runs` repeated runs."""

    runs: int


class SloShare(TypedDict):
    """Share of the requests answered within `slo_ms`; `goodput` is their number per second."""

    slo_ms: NotRequired[float]
    within_slo: NotRequired[float]
    goodput: NotRequired[float]


class LatencyGroup(RunPercentiles, SloShare):
    """Cache hits, misses, or both; `hdr` is an HDR histogram in V2 encoding, None without samples."""

    hdr: str | None


class DispatchDelay(TypedDict):
    """Delay between the scheduled and the actual departure of requests, in ms."""

    p50: float | None
    p99: float | None


class LatencyHead(TypedDict):
    """Whether the runs are valid, and the rates; see `eval.latency.summarise`.

    `invalid_answers` is the number of answers that a Limbeck gateway marked as invalid: fast, but of no use.
    """

    valid: bool
    problem: str | None
    saturated: bool
    offered_rate: float
    seconds: float
    requests: int
    achieved_rate: float
    sent_in_time: float
    dispatch_delay_ms: DispatchDelay
    generator_cpu: float
    statuses: dict[str, int]
    invalid_answers: NotRequired[int]


class CacheGroups(TypedDict):
    """Cache hits and misses, where the server says which is which."""

    hit: NotRequired[LatencyGroup]
    miss: NotRequired[LatencyGroup]


class TokenTimes(TypedDict):
    """Time to first token and time per output token of streamed answers."""

    ttft: NotRequired[Percentiles]
    tpot: NotRequired[Percentiles]


class LatencySummary(LatencyHead, CacheGroups, TokenTimes):
    """Load runs at one rate; `blended` is all requests, hits and misses together."""

    blended: LatencyGroup


class SteadyLatency(LatencySummary):
    """The steady runs of a benchmark."""

    arrivals: Literal["poisson", "rising poisson", "replayed"]
    queries_repeated: float
    processes: int


class SweepRate(LatencySummary):
    """One rate of a sweep, and whether the server sustained it."""

    holds: bool
    rate: float


class RateSweep(TypedDict):
    """Latency by offered rate; `limit` names what limits the highest sustained rate."""

    rates: list[SweepRate]
    sustained: float | None
    limit: Literal["server", "generator"] | None
    seconds: float


class SloCheck(TypedDict):
    """Whether a latency percentile meets the SLO."""

    ms: float
    percentile: str
    measured: Estimate | None
    ok: bool


class LatencyBench(TypedDict):
    """A latency benchmark of a running server, as in bench.json."""

    schema: int
    url: str
    api: str
    model: str | None
    single: int
    cold: Percentiles
    warm_prefix: Percentiles
    steady: SteadyLatency
    sweep: RateSweep | None
    slo: SloCheck | None


def percentile_of(found: Percentiles, name: str) -> Estimate | None:
    """`p50`, `p95` or `p99`."""
    if name == "p50":
        return found["p50_ms"]
    return found["p95_ms"] if name == "p95" else found["p99_ms"]

"""A service's metrics, as figures for a page. Counters are since the service was started."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

QUANTILES: Final = (0.5, 0.95, 0.99)
_CACHES: Final = frozenset({"cache", "kept"})
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of the requests of one path that were answered from one source.

    Attributes:
        seconds: Percentiles as in `QUANTILES`, interpolated within the histogram's buckets; infinite above the last.
    """

    path: str
    source: str
    count: int
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """Queries that a bundle answered, by source and by status."""

    bundle: str
    sources: Mapping[str, int]
    statuses: Mapping[str, int]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.sources.values())

    @property
    def hit_rate(self) -> float | None:
        """The share that head cache and kept answers answered; None without answers."""
        return sum(n for s, n in self.sources.items() if s in _CACHES) / self.total if self.total else None


@dataclass(frozen=True, slots=True)
class Drift:
    """The last verdict of `limbeck drift` on a task.

    Attributes:
        last: When the last capture was made that it is about, in seconds since 1970.
        figures: (name, change as a share or a distance, adjusted p).
    """

    task: str
    drifted: bool
    worth_a_round: bool
    last: float | None
    figures: tuple[tuple[str, float, float | None], ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What the metrics of a service say.

    Attributes:
        refused: Reason → requests that were refused.
        invalid: (bundle, kind, answers of students that cannot be used).
        captured: Bundle → rows of captures.
        canaries_refused: (bundle, bound, how often it was taken out of service for it).
        waiting: Queries that wait for a student.
        lost: What could not be written → how much.
    """

    answers: tuple[Answers, ...]
    latency: tuple[Latency, ...]
    refused: Mapping[str, int]
    invalid: tuple[tuple[str, str, int], ...]
    drift: tuple[Drift, ...]
    captured: Mapping[str, int]
    canaries_refused: tuple[tuple[str, str, int], ...]
    waiting: int
    lost: Mapping[str, int]


def figures_of(text: str) -> Figures:
    """The figures of a page of metrics in Prometheus' text format. Raises `ValueError` for another text."""
    found: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name].append((sample.labels, sample.value))
    if "limbeck_requests_total" not in found and not any(name.startswith("limbeck_") for name in found):
        raise ValueError("no metrics of a service")
    return Figures(
        answers=tuple(_answers(found["limbeck_answers_total"])),
        latency=tuple(_latency(found["limbeck_request_seconds_bucket"])),
        refused=_counts(found["limbeck_refused_total"], "reason"),
        invalid=tuple(_pairs(found["limbeck_invalid_total"], "bundle", "kind")),
        drift=tuple(_drift(found)), captured=_counts(found["limbeck_captured_total"], "bundle"),
        canaries_refused=tuple(_pairs(found["limbeck_canary_refused_total"], "bundle", "bound")),
        waiting=round(sum(v for _, v in found["limbeck_waiting"])), lost=_counts(found["limbeck_lost"], "what"),
    )


def percentile(buckets: Sequence[tuple[float, float]], quantile: float) -> float | None:
    """A quantile of a cumulative histogram, interpolated linearly within its bucket as Prometheus does.

    Args:
        buckets: (upper bound, number of values up to it), by bound; the last bound is infinite.

    Returns:
        Infinite where the quantile is above the last finite bound; None without values.
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    rank = quantile * total
    for (below, before), (bound, count) in pairwise([(0.0, 0.0), *buckets]):
        if count >= rank and count > before:
            return bound if math.isinf(bound) else below + (bound - below) * max(0.0, rank - before) / (count - before)
    return math.inf


def _latency(samples: Sequence[tuple[Labels, float]]) -> Iterator[Latency]:
    groups: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for labels, value in samples:
        if labels["source"]:  # others are requests for metrics, models and the like
            groups[labels["path"], labels["source"]].append((float(labels["le"]), value))
    for (path, source), buckets in sorted(groups.items()):
        buckets.sort()
        seconds = tuple(s for q in QUANTILES if (s := percentile(buckets, q)) is not None)
        if seconds:
            yield Latency(path, source, round(buckets[-1][1]), seconds)


def _answers(samples: Sequence[tuple[Labels, float]]) -> Iterator[Answers]:
    bundles: dict[str, tuple[dict[str, int], dict[str, int]]] = {}
    for labels, value in samples:
        sources, statuses = bundles.setdefault(labels["bundle"], ({}, {}))
        sources[labels["source"]] = sources.get(labels["source"], 0) + round(value)
        statuses[labels["status"]] = statuses.get(labels["status"], 0) + round(value)
    for bundle, (sources, statuses) in sorted(bundles.items()):
        yield Answers(bundle, sources, statuses)


def _drift(found: Mapping[str, Sequence[tuple[Labels, float]]]) -> Iterator[Drift]:
    chance = {(x["task"], x["figure"]): v for x, v in found.get("limbeck_drift_p", ())}
    worth = {x["task"]: v for x, v in found.get("limbeck_drift_round", ())}
    last = {x["task"]: v for x, v in found.get("limbeck_drift_last_capture_timestamp_seconds", ())}
    for labels, drifted in found.get("limbeck_drifted", ()):
        task = labels["task"]
        yield Drift(task, bool(drifted), bool(worth.get(task)), last.get(task), tuple(
            (x["figure"], v, chance.get((task, x["figure"])))
            for x, v in found.get("limbeck_drift_change", ()) if x["task"] == task
        ))


def _counts(samples: Sequence[tuple[Labels, float]], label: str) -> dict[str, int]:
    out: dict[str, int] = {}
    for labels, value in samples:
        if value:
            out[labels[label]] = out.get(labels[label], 0) + round(value)
    return out


def _pairs(samples: Sequence[tuple[Labels, float]], one: str, other: str) -> Iterator[tuple[str, str, int]]:
    yield from ((x[one], x[other], round(v)) for x, v in samples if v)

"""How often bundles were refused, as a Prometheus counter; the supervisor leaves it in the state folder.

Every process that answers a scrape reads it there: the supervisor's own metrics are none of those that workers add up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from task.files import write_json

FILE: Final = "refusals.json"
"""In a service's state folder: bundle → bound → how often."""


def count_refusal(state: Path, bundle: str, bound: str) -> None:
    """Count that a bundle was refused for a bound that it left; raises `OSError` where that cannot be written."""
    found = _read(state / FILE)
    of_bundle = found.setdefault(bundle, {})
    of_bundle[bound] = of_bundle.get(bound, 0) + 1
    write_json(state / FILE, found)


class RefusalCounts(Collector):
    """The counts of a state folder at the moment of the scrape."""

    def __init__(self, state: Path) -> None:
        self._file = state / FILE

    def collect(self) -> Iterator[Metric]:
        """The counter; without refusals it has no series."""
        counter = CounterMetricFamily(
            "limbeck_canary_refused", "Bundles taken out of service for a bound of `serving.change.bounds`",
            labels=["bundle", "bound"],
        )
        for bundle, bounds in _read(self._file).items():
            for bound, times in bounds.items():
                counter.add_metric([bundle, bound], times)
        yield counter


def _read(file: Path) -> dict[str, dict[str, int]]:
    """The counts; none where there is no such file, or another one of this name."""
    try:
        rows = json.loads(file.read_bytes())
        return {str(b): {str(k): int(n) for k, n in bounds.items()} for b, bounds in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}

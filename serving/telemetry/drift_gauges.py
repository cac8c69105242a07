"""The last verdicts of `limbeck drift` as Prometheus gauges; it leaves them in the state folder, a file a task.

The service itself measures no drift: it takes embeddings and the query log, which serving does without.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from task.errors import warn
from task.files import write_json

FOLDER: Final = "drift"
"""In a service's state folder."""


def verdict_file(state: Path, task: str) -> Path:
    """Where the last verdict on a task's traffic is."""
    return state / FOLDER / f"{task}.json"


def publish(state: Path, task: str, verdict: Mapping[str, Any]) -> None:
    """Leave a verdict where the service's metrics find it; a folder that cannot be written to costs only that."""
    file = verdict_file(state, task)
    try:
        file.parent.mkdir(exist_ok=True)
        write_json(file, verdict)
    except OSError as error:
        warn(
            f"the verdict cannot be left for the service's metrics: {error}", file=file, field="--state",
            fix="Run the command as the service's user",
        )


class DriftGauges(Collector):
    """What the verdicts in a state folder say at the moment of the scrape.

    A file that is not one of `limbeck drift` is left out: whatever lies there, the other metrics are answered.
    """

    def __init__(self, state: Path) -> None:
        self._folder = state / FOLDER

    def collect(self) -> Iterator[Metric]:
        """The gauges; without verdicts they have no series."""
        moved = GaugeMetricFamily(
            "limbeck_drifted", "1 if a figure of the traffic has moved since the release, else 0", labels=["task"]
        )
        worth = GaugeMetricFamily(
            "limbeck_drift_round", "1 if that makes a round of labelling and training worth its money, else 0",
            labels=["task"],
        )
        last = GaugeMetricFamily(
            "limbeck_drift_last_capture_timestamp_seconds", "The last capture that the verdict is about",
            labels=["task"],
        )
        change = GaugeMetricFamily(
            "limbeck_drift_change", "Change of a figure since the release, as a share; of `queries` a distance",
            labels=["task", "figure"],
        )
        chance = GaugeMetricFamily(
            "limbeck_drift_p", "How often chance alone gives as much, adjusted for the number of figures",
            labels=["task", "figure"],
        )
        for file in sorted(self._folder.glob("*.json")):
            try:
                found = _read(file)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            task = [file.stem]
            moved.add_metric(task, found["drifted"])
            worth.add_metric(task, found["round"])
            last.add_metric(task, found["last"])
            for name, (size, p) in found["figures"].items():
                change.add_metric([*task, name], size)
                chance.add_metric([*task, name], p)
        yield from (moved, worth, last, change, chance)


def _read(file: Path) -> dict[str, Any]:
    """What the gauges take of a verdict, all of it or an error."""
    row = json.loads(file.read_text(encoding="utf-8"))
    return {
        "drifted": float(row["drifted"]), "round": float(row["round"]), "last": float(row["about"]["last"]),
        "figures": {n: (float(f["change"]["value"]), float(f["adjusted"])) for n, f in row["figures"].items()},
    }

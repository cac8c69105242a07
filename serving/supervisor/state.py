"""The desired state of the workers, and their reports: files in the service's state folder.

The desired state is complete and written atomically; a worker that is restarted reads it again and serves what the
others serve.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from serving.routing.student_tally import StudentFigures
from serving.telemetry.kept_files import KeptFiles
from serving.telemetry.metrics import EngineState
from task.files import write_text
from task.serving_settings import Serving
from task.settings import Fraction, Strict


class DesiredRoute(Strict):
    """A bundle, its engine and its settings.

    Attributes:
        folder: The supervisor's verified copy, without weights.
        engine: Base URL of the engine.
        checked: Whether the engine has passed the check against the trained student since it was last started.
        restarts: How often the engine was started again.
        tally: The counting that the student's answers belong to (`StateFolder.counted`); empty where none is under way.
    """

    folder: Path
    engine: str
    role: Literal["active", "trial", "leaving"]
    checked: bool
    settings: Serving
    restarts: int = 0
    canary: Fraction = 0.0
    shadow: Fraction = 0.0
    tally: str = ""

    def engine_state(self) -> EngineState:
        """For the metrics; the folder is named after the bundle (`StateFolder.copy_of`)."""
        return EngineState(self.folder.name, self.checked, self.restarts)


class DesiredState(Strict):
    """What every worker is to serve; `settings` are the process's, a route has its own."""

    generation: int
    settings: Serving
    routes: tuple[DesiredRoute, ...]


class WorkerReport(Strict):
    """What a worker reports about itself several times a second; `waiting` and `answered` are by bundle.

    `figures` are by counting (`DesiredRoute.tally`) and bundle, since this process began with that counting.
    """

    pid: int
    generation: int
    waiting: dict[str, int]
    answered: dict[str, int]
    figures: Mapping[str, Mapping[str, StudentFigures]] = Field(default={})


class StateFolder:
    """The folder that supervisor and workers share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = path / "store.sqlite"
        self.metrics = path / "metrics"
        self.access = path / "access.jsonl"
        self.kept = KeptFiles(path)
        self.uncertain = self.kept.uncertain
        self.desired = path / "wanted.json"
        self.connections = path / "connections"

    def copy_of(self, bundle_id: str) -> Path:
        """Where the supervisor keeps its copy of a bundle's small files and cache."""
        return self.path / "bundles" / bundle_id

    def counted(self, tally: str) -> Path:
        """The file in which workers mark the queries that a counting has counted."""
        return self.path / "counted" / tally

    def write_desired(self, desired: DesiredState) -> None:
        """Set what the workers are to serve."""
        write_text(self.desired, desired.model_dump_json())

    def read_desired(self) -> DesiredState:
        """What the workers are to serve now."""
        return DesiredState.model_validate_json(self.desired.read_bytes())

    def write_report(self, number: int, report: WorkerReport) -> None:
        """Replace a worker's report; it is of no use after a crash, so it is not synced to disk."""
        path = self._report(number)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(report.model_dump_json())
        temporary.replace(path)

    def read_report(self, number: int) -> WorkerReport | None:
        """A worker's last report, None where there is none."""
        try:
            return WorkerReport.model_validate(json.loads(self._report(number).read_bytes()))
        except (FileNotFoundError, ValueError):
            return None

    def report_age(self, number: int, now: float) -> float | None:
        """Seconds since a worker's last report; `now` is `time.time()`."""
        try:
            return now - self._report(number).stat().st_mtime
        except FileNotFoundError:
            return None

    def remove_report(self, number: int) -> None:
        """Remove the report of a worker that has ended."""
        self._report(number).unlink(missing_ok=True)

    def _report(self, number: int) -> Path:
        return self.path / f"worker-{number}.json"

"""A bundle that a service has deployed: its engine, its settings, and its files that workers read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.kind import kind_name
from engine.pool import Placement
from serving.release.bundle import Bundle
from serving.release.verdict import verdict
from serving.supervisor.state import DesiredRoute
from task.serving_settings import Serving


@dataclass(frozen=True, slots=True)
class Deployed:
    """A bundle that has an engine, and the copy of its small files that the workers read.

    Attributes:
        held: Keeps the bundle on disk for as long as its engine may have to start again.
    """

    bundle: Bundle
    copy: Path
    placement: Placement
    settings: Serving
    held: int

    def route(self, role: Any, *, canary: float = 0.0, shadow: float = 0.0) -> DesiredRoute:
        """The route that workers are to serve it with."""
        return DesiredRoute(
            folder=self.copy, engine=self.placement.watchdog.url, role=role, canary=canary, shadow=shadow,
            settings=self.settings, checked=self.placement.checked, restarts=self.placement.watchdog.restarts,
        )

    def status(self) -> dict[str, Any]:
        """What `/status` shows of it."""
        w = self.placement.watchdog
        return {
            "bundle": self.bundle.id, "folder": str(self.bundle.folder), "model": self.bundle.model_name,
            "runs_on": kind_name(self.bundle, self.settings), "engine": w.state, "pid": w.pid,
            "restarts": w.restarts, "log": str(w.log),
            "why": (w.last_error or None) if w.state != "ready" else None,
            "gate": verdict(self.bundle),
        }

"""Which bundle answers which query: for each task the active one, and during a change the one on trial."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field

from serving.routing.route import Route


@dataclass(frozen=True, slots=True)
class Choice:
    """The routes of one task.

    Attributes:
        active: The route that answers.
        trial: The route of the bundle that is to take over.
        canary: Share of the queries that the trial answers; a query is always answered by the same route.
        shadow: Share of the student's queries that the trial is asked as well, without the client seeing its answer.
    """

    active: Route
    trial: Route | None = None
    _: KW_ONLY
    canary: float = 0.0
    shadow: float = 0.0

    def pick(self, query: str) -> Route:
        """The route that answers a query."""
        if self.trial is not None and self.canary and _share(query) < self.canary:
            return self.trial
        return self.active

    def shadowed(self, query: str, route: Route) -> Route | None:
        """The route to compare with the one that answered, None where this query is not compared."""
        if self.trial is None or route is self.trial or not self.shadow:
            return None
        return self.trial if _share("shadow " + query) < self.shadow else None


@dataclass(slots=True)
class Routes:
    """What is served now; replaced as a whole, so that each request sees a consistent state."""

    tasks: Mapping[str, Choice] = field(default_factory=dict)

    def of(self, task: str | None) -> Choice | None:
        """The routes of a task; without a name, those of the only task."""
        if task is not None:
            return self.tasks.get(task)
        return next(iter(self.tasks.values())) if len(self.tasks) == 1 else None


def _share(query: str) -> float:
    return zlib.crc32(query.encode()) / 2**32

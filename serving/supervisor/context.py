"""What the rollouts of a service share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.pool import EnginePool
from serving.supervisor.state import StateFolder
from serving.supervisor.worker_pool import WorkerPool
from task.serving_settings import Serving


@dataclass(frozen=True, slots=True)
class RolloutContext:
    """State folder, engines and workers of the service, and its operator.

    Attributes:
        override: What the operator sets in place of a bundle's settings.
        report: Called with what happens and, as `failed`, whether it is a failure.
    """

    state: StateFolder
    engines: EnginePool
    workers: WorkerPool
    override: Callable[[Serving], Serving]
    report: Callable[..., None]

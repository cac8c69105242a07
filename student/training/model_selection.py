"""Which of a run's adapters is kept, and when training no longer pays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(slots=True)
class Selection:
    """The best dev F1 so far.

    Attributes:
        patience: Evaluations in a row without a better one after which to stop; None for never.
        best: The best score, of the adapter at `step`; -1 before the first.
        without: Evaluations since.
    """

    patience: int | None = None
    best: float = -1.0
    step: int = 0
    without: int = 0

    @classmethod
    def resume(cls, patience: int | None, state: Mapping[str, Any]) -> Self:
        """As `state` was when a checkpoint was written."""
        return cls(patience, state["best"], state["best_step"], state["without"])

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "best_step": self.step, "without": self.without}

    def improved(self, step: int, score: float) -> bool:
        """Take note of a score; whether it is the best."""
        if score <= self.best:
            self.without += 1
            return False
        self.best, self.step, self.without = score, step, 0
        return True

    @property
    def stop(self) -> bool:
        """Whether the last evaluations were all no better than one before them."""
        return self.patience is not None and self.without >= self.patience

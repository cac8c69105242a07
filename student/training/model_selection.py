"""Model selection by dev F1, and early stopping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(slots=True)
class Selection:
    """The best dev F1 so far.

    Attributes:
        patience: Evaluations in a row without improvement after which training stops; None for never.
        best: The best score, of the adapter at `step`; -1 before the first evaluation.
        not_improved: Evaluations since then.
    """

    patience: int | None = None
    best: float = -1.0
    step: int = 0
    not_improved: int = 0

    @classmethod
    def resume(cls, patience: int | None, state: Mapping[str, Any]) -> Self:
        """The selection whose `state` a checkpoint holds."""
        return cls(patience, state["best"], state["best_step"], state["without"])

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        return {"best": self.best, "best_step": self.step, "without": self.not_improved}

    def improved(self, step: int, score: float) -> bool:
        """Record the score of a step; returns whether it is the best so far."""
        if score <= self.best:
            self.not_improved += 1
            return False
        self.best, self.step, self.not_improved = score, step, 0
        return True

    @property
    def stop(self) -> bool:
        """Whether the patience is exhausted."""
        return self.patience is not None and self.not_improved >= self.patience

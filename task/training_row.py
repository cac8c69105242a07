"""One labelling to learn from: what the curriculum writes, and what a training job reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from task.labels import Doubt, Example


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One labelling to learn from.

    Attributes:
        confidence: Probability in [0, 1] that the labelling as a whole is right; the weight of words without a label.
        cluster: Name of its cluster of near-duplicates.
        difficulty: In [0, 1]: long queries, many labels and rare words are hard.
        stratum: `head`, `torso` or `tail` by traffic rank in the log.
        doubts: Parts of the labelling that are not to be learned from.
    """

    example: Example
    _: KW_ONLY
    confidence: float = 1.0
    cluster: str = ""
    difficulty: float = 0.0
    stratum: str = "tail"
    doubts: tuple[Doubt, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values without rounding: training uses exactly this `confidence` as a weight."""
        return {
            **self.example.to_json(), "confidence": self.confidence, "cluster": self.cluster,
            "difficulty": self.difficulty, "stratum": self.stratum, "doubts": [d.to_json() for d in self.doubts],
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> TrainingRow:
        """The inverse of `to_json`; a job of an earlier version has only confidence and doubts."""
        more = {k: row[k] for k in ("cluster", "difficulty", "stratum") if k in row}
        doubts = tuple(Doubt(**d) for d in row["doubts"])
        return cls(Example.from_json(row), confidence=row["confidence"], doubts=doubts, **more)

"""Calibration of the student: the probability that its labelling is right.

A student gives its labelling, as a whole, a raw probability (`Codec.decode_scores_with_probability`). Isotonic
regression (Zadrozny and Elkan 2002) on gold rows that the student was not trained on maps it to the observed share of
right labellings. The map is kept as JSON and applied without scikit-learn, in the gateway.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Calibrator:
    """A monotonous, piecewise linear map from the student's raw probability to a calibrated one.

    Attributes:
        points: (raw probability, probability), rising; without points the map is the identity.
        report: JSON-ready: on how many rows it was fitted, AUROC, ECE, Brier score.
    """

    points: tuple[tuple[float, float], ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(cls, raw_probabilities: Sequence[float], right: Sequence[bool], report: Mapping[str, Any]) -> Self:
        """Fit on labellings that were right or not; the identity if there are fewer than two of either kind."""
        from sklearn.isotonic import IsotonicRegression

        if min(sum(right), len(right) - sum(right)) < 2:
            return cls(report=report)
        # No probability of 0 or 1: half a right and half a wrong observation are added at either end.
        model = IsotonicRegression(out_of_bounds="clip")
        model.fit([0.0, *raw_probabilities, 1.0], [0.5, *map(float, right), 0.5], [0.5, *[1.0] * len(right), 0.5])
        points = tuple(
            (round(float(x), 6), round(float(y), 6))
            for x, y in zip(model.X_thresholds_, model.y_thresholds_, strict=True)
        )
        return cls(points, report)

    def probability(self, raw_probability: float) -> float:
        """The probability that the labelling is right."""
        if not self.points:
            return raw_probability
        at = bisect_right(self.points, (raw_probability, 2.0))
        if at == 0:
            return self.points[0][1]
        if at == len(self.points):
            return self.points[-1][1]
        (x0, y0), (x1, y1) = self.points[at - 1], self.points[at]
        return y0 if x1 == x0 else y0 + (y1 - y0) * (raw_probability - x0) / (x1 - x0)

    def to_json(self) -> dict[str, Any]:
        """The file `confidence.json` of a bundle."""
        return {"points": [list(p) for p in self.points], "report": dict(self.report)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(tuple((float(x), float(y)) for x, y in value["points"]), value["report"])

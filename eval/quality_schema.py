"""Types of what the report says about quality: estimates, one system, two systems, calibration.

All are plain dictionaries at run time and are written to JSON as they are. A key that is not required is left out where
its figure was not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

from task.validation import FaultKind


class Estimate(TypedDict):
    """A point estimate with its confidence interval; a share lies in [0, 1]; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


class SeedEstimate(Estimate):
    """A mean over training seeds.

    Attributes:
        spread: Standard deviation over seeds; None for one.
        seeds: The value of each seed.
    """

    spread: float | None
    seeds: list[float]


class Micro(TypedDict):
    """Micro-averaged figures over all labels."""

    precision: Estimate
    recall: Estimate
    f1: Estimate


class RoleQuality(Micro):
    """One role; `support` is its number of gold labels."""

    support: int


class LevelQuality(Micro):
    """One level of a taxonomy; `support` is its number of gold labels."""

    support: int


class TaxonomyQuality(TypedDict):
    """A role whose values are paths: whole paths, and paths cut off at each level from the first."""

    leaf: LevelQuality
    levels: list[LevelQuality]


class SchemeQuality(Micro):
    """All figures of a matching scheme; `exact_match` is the share of queries whose labels are all right."""

    macro_f1: Estimate
    weighted_f1: Estimate
    exact_match: Estimate
    roles: dict[str, RoleQuality]


class SliceQuality(Micro):
    """A slice of the gold rows, scored by value."""

    rows: int
    exact_match: Estimate


class Quality(TypedDict):
    """One system against gold, by matching scheme (`eval.matching`).

    Attributes:
        hallucinated: Share of the predicted labels of open roles whose text the query does not contain.
        invalid: Share of the answers that could not be read or that break the task's rules (`task.validation`).
        invalid_kinds: How many of each kind; kinds that did not occur are left out.
        slices: By dimension and part.
        taxonomies: By role, of those whose values are paths.
    """

    rows: int
    value: SchemeQuality
    raw: Micro
    span: SchemeQuality
    exact: Micro
    partial: Micro
    type: Micro
    hallucinated: Estimate
    invalid: NotRequired[Estimate]
    invalid_kinds: NotRequired[dict[FaultKind, int]]
    slices: NotRequired[dict[str, dict[str, SliceQuality]]]
    taxonomies: NotRequired[dict[str, TaxonomyQuality]]


class McNemar(TypedDict):
    """Queries that only one of two systems gets entirely right, and the mid-p value."""

    only_a: int
    only_b: int
    p: float


class RoleDifference(TypedDict):
    """ΔF1 of one role; `p_holm` is adjusted over roles."""

    f1: Estimate
    p_holm: float | None


class Difference(Micro):
    """Paired differences of two systems, scored by value.

    Attributes:
        p: Two-sided bootstrap p-value of ΔF1; `p_randomisation` by approximate randomisation.
        detectable: Minimum detectable effect of F1 (power 80 %).
    """

    p: float | None
    p_randomisation: float | None
    detectable: float | None
    mcnemar: McNemar
    roles: dict[str, RoleDifference]


class NamedDifference(Difference):
    """System `a` minus system `b`; `slices` has ΔF1 by dimension and part, in reports from version 4 on."""

    a: str
    b: str
    slices: NotRequired[dict[str, dict[str, Estimate]]]


class Agreement(TypedDict):
    """Agreement of human annotators: F1 of every pair (`between`) and of each against gold."""

    scheme: str
    rows: int
    between: list[Estimate]
    gold: list[Estimate]
    mean_between: float | None
    mean_gold: float | None


class ReliabilityBin(TypedDict):
    """A bin of equal mass: mean confidence and accuracy."""

    rows: int
    confidence: float
    right: float


class RiskPoint(TypedDict):
    """Coverage and error rate of the labels at or above a confidence threshold."""

    threshold: float
    coverage: float
    risk: float


class Calibration(TypedDict):
    """How well probabilities discriminate and how well they are calibrated; only the counts if there are no labels."""

    labels: int
    right: int
    threshold: float | None
    auroc: NotRequired[Estimate]
    ece: NotRequired[Estimate]
    brier: NotRequired[Estimate]
    precision: NotRequired[Estimate]
    coverage: NotRequired[Estimate]
    reliability: NotRequired[list[ReliabilityBin]]
    risk_coverage: NotRequired[list[RiskPoint]]


def micro(figures: Sequence[Estimate]) -> Micro:
    """Precision, recall and F1, in this order."""
    precision, recall, f1 = figures
    return {"precision": precision, "recall": recall, "f1": f1}

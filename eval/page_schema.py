"""The types of the other pages' content: comparison, context audit, ablation, sweep, composition, labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NotRequired, TypedDict

from eval.latency_schema import Percentiles
from eval.quality_schema import Difference, Estimate, Micro, Quality, SeedEstimate
from eval.report_schema import BreakEven, Device

STUDIES: Final = 1  # the version of comparison.json, audit.json, ablation.json, sweep.json and composition.json


class Provenance(TypedDict):
    """When, with what and where a page was made."""

    finished: str
    versions: dict[str, str]
    device: Device
    git: str | None


class Point(TypedDict):
    """A system's F1 and median latency; None where its latency was not measured."""

    f1: Estimate
    p50_ms: Estimate | None


class MeasuredSystem(Point):
    """A compared system.

    Attributes:
        latency: Of the same queries as the others, in ABBA order.
        less_first: Paired differences to the first system; None for the first itself.
        slower_than_first: Relative difference of the latency to that of the first system.
    """

    name: str
    kind: str
    source: str
    quality: Quality
    latency: Percentiles | None
    less_first: Difference | None
    slower_than_first: Estimate | None


class ComparedSystem(MeasuredSystem):
    """A compared system; `best` where it lies on the Pareto front of F1 and latency."""

    best: bool


class Comparison(Provenance):
    """Systems side by side, in the order in which they were named; `pairs` is the number of timed queries."""

    task: str
    rows: int
    first: str
    resamples: int
    confidence: float
    pairs: int
    systems: list[ComparedSystem]


class AuditVariant(Micro):
    """The teacher under a variant of its context; `worth` is F1 with all context minus F1 of the variant."""

    name: str
    worth: Estimate | None


class AuditSlice(TypedDict):
    """The variants on a slice of the queries."""

    name: str
    rows: int
    variants: list[AuditVariant]


class Audit(TypedDict):
    """The teacher with and without each kind of context; `gold` names the gold split."""

    task: str
    backend: str
    gold: str
    rows: int
    level: float
    finished: str
    slices: list[AuditSlice]


class AblationVariant(TypedDict):
    """An order and a weighting; `less_reference` is ΔF1 against the reference, None for the reference."""

    name: str
    f1: SeedEstimate
    less_reference: Estimate | None


class Ablation(Provenance):
    """Orders and weightings over seeds; `rows` are training rows, `gold` is the number of rows judged on."""

    task: str
    rows: int
    gold: int
    on: str
    steps: int
    seeds: int
    level: float
    reference: str
    variants: list[AblationVariant]
    verdict: str


class AdapterFigures(TypedDict):
    """An adapter of a sweep: number of trained parameters, dev F1, training throughput."""

    name: str
    trained: int
    f1: SeedEstimate
    rows_per_s: float


class SweepVariant(AdapterFigures):
    """The same, compared with the best; `less_best` is None for the best itself."""

    less_best: Estimate | None


class Sweep(Provenance):
    """Ranks and target layers, judged on `dev` rows; F1 within `margin` of the best is as good."""

    task: str
    dev: int
    steps: int
    level: float
    margin: float
    variants: list[SweepVariant]
    recommended: str
    verdict: str


class AdapterOnTask(TypedDict):
    """F1 of an adapter on a task, and the difference to the task's own adapter."""

    f1: Estimate
    less_own: Estimate | None


class ComposedAdapter(TypedDict):
    """An adapter on every task."""

    name: str
    tasks: dict[str, AdapterOnTask]


class Composition(Provenance):
    """Adapters of several tasks, alone and composed."""

    tasks: list[str]
    weights: list[float]
    density: float
    rows: dict[str, int]
    level: float
    adapters: list[ComposedAdapter]


class LabelledQuery(TypedDict):
    """A query as the teacher labelled it; `verdicts` are those of labels that were repaired or rejected."""

    query: str
    count: int
    status: str
    reason: str
    confidence: float
    labels: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]
    evidence: str


class LabelReport(TypedDict):
    """A labelling job.

    Attributes:
        statuses: Queries by status.
        spent: Attempts, tokens and dollars.
        confidence: The calibrators, their threshold and their report; None where there was nothing to calibrate on.
        uncalibrated: Why there was nothing.
        verdicts: Labels by role and guardrail verdict, with examples.
        sample: Queries of each status and role, from the least to the most confident.
    """

    task: str
    backend: str
    rows: int
    statuses: Mapping[str, Any]
    spent: Mapping[str, Any]
    confidence: Mapping[str, Any] | None
    uncalibrated: NotRequired[str]
    verdicts: Sequence[Mapping[str, Any]]
    sample: Sequence[LabelledQuery]
    level: float
    finished: str


class RoundRow(TypedDict):
    """A round of labelling and training.

    Attributes:
        student: Id of the bundle that was released when it began.
        ending: `released`, `refused`, `not worth it`, `given up`; of one that is not finished, its last finished stage.
        why: A sentence.
        bundle: Id of the student that it made.
        drift: The verdict on the traffic before it.
        labels: How many queries were labelled: `picked` to learn from, `random` ones, and those judged `again`, of
            which `changed` got other labels.
        cost: Paid for labels, in dollars.
        machines: Dollars for the machines of its stages.
        break_even: After how many queries both are earned back; None where a query's price is not known.
        minutes: Of all stages.
        begins_from: What the training began from: `adapter` or `base`.
        gold: F1 of the new student on gold; `gold_before`: of the released one; `gold_difference`: paired.
        drawn: The same on requests drawn from the traffic, against the teacher's labels.
        failed: The gates that did not hold.
    """

    number: int
    opened: str
    student: str
    ending: str
    why: str
    bundle: str | None
    drift: str
    labels: int
    picked: int
    random: int
    again: int
    changed: int
    cost: float
    machines: float
    break_even: BreakEven | None
    minutes: float
    begins_from: str
    gold: Estimate | None
    gold_before: Estimate | None
    gold_difference: Estimate | None
    gold_rows: int
    drawn: Estimate | None
    drawn_before: Estimate | None
    drawn_difference: Estimate | None
    drawn_rows: int
    failed: list[str]


class RoundsPage(TypedDict):
    """All rounds of a task; `cost` is what their labels cost together, in dollars."""

    task: str
    level: float
    rounds: list[RoundRow]
    cost: float

"""The types of report.json; docs/report.md describes its fields. Quality and latency have modules of their own.

The classes are plain dictionaries at run time, so a report needs no conversion when it is written or read. A key that
is not required is left out where its figure was not measured.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final, Literal, NotRequired, TypedDict, cast

from eval.decisions_schema import Decisions
from eval.latency_schema import LatencyBench, Percentiles, SteadyLatency
from eval.quality_schema import Agreement, Calibration, Estimate, NamedDifference, Quality
from task.errors import InputError
from task.files import read_json

SCHEMA: Final = 4  # the version of report.json
_READABLE: Final = (2, 3, 4)  # later ones have more keys, which are not required
_PAGE: Final = re.compile(r"<title>Limbeck ·|: the student (?:passes|does not pass) the gate")
_PAGE_SCHEMA: Final = re.compile(r"report schema (\d+)")


class Assumption(TypedDict):
    """A price or a rate that the cost rests on, and where it comes from."""

    name: str
    value: float
    unit: str
    source: str


class PerSystem(TypedDict):
    """US dollars for the same number of queries."""

    teacher: float
    student: float
    cache: float
    served: float


class BreakEven(TypedDict):
    """After how many queries, and days of the log's traffic, the student has paid for its distillation."""

    queries: int
    days: float | None


class CacheSize(TypedDict):
    """A size of the head cache: the share of traffic that it answers, and dollars per million queries."""

    queries: int
    share: float
    per_million: float


class CostReport(TypedDict):
    """Cost per query, the one-off cost of distillation, break-even and the best cache size; see `eval.cost.cost`."""

    assumptions: list[Assumption]
    per_million: PerSystem
    per_thousand: PerSystem
    one_off: dict[str, float]
    one_off_total: float
    cached_share: float
    queries_a_day: float
    break_even: BreakEven | None
    cache_sizes: list[CacheSize]
    best_cache: int | None
    cached: int
    imported: NotRequired[bool]  # whether the labels were imported, so that no teacher's price is known; older: absent


class ErrorKind(TypedDict):
    """How often one kind of error occurs; `shared` is the share that the other system makes too."""

    kind: str
    means: str
    count: dict[str, int]
    shared: float | None
    roles: dict[str, int]


class ErrorAnalysis(TypedDict):
    """Errors by kind and slice; `labels` is the number of gold labels by slice."""

    slices: list[str]
    labels: dict[str, int]
    rows: list[ErrorKind]


class WrongAnswer(TypedDict):
    """A query that the served student got wrong, ready to print."""

    query: str
    slice: str
    kind: str
    gold: str
    teacher: str
    student: str
    evidence: str


class Change(TypedDict):
    """A figure before and now; `clear` where the intervals do not overlap."""

    what: str
    unit: str
    before: Estimate
    now: Estimate
    clear: bool


class Since(TypedDict):
    """The earlier report."""

    bundle: str
    finished: str


class Changes(TypedDict):
    """Figures that two reports have in common."""

    since: Since
    rows: list[Change]


class VerdictLine(TypedDict):
    """A rule of the gate, or, with `rule` None, a remark that does not affect the verdict."""

    rule: str | None
    ok: bool
    found: NotRequired[str]
    asked: NotRequired[str]
    evidence: NotRequired[Any]
    text: str


Answer = Literal["yes", "no", "not shown"]


class Headline(TypedDict):
    """Whether the student may replace the teacher (`eval.headline`).

    Attributes:
        why: Sentences, the most important first.
        against: The system that the report compares the student with; None where it is compared with none.
        difference: ΔF1 of the student against that system.
    """

    answer: Answer
    why: list[str]
    against: str | None
    difference: Estimate | None


class Perplexity(TypedDict):
    """Perplexity of general text under the base and under the merged model."""

    base: float
    merged: float
    ratio: float
    tokens: int


class ChatRow(TypedDict):
    """A general question and the answers of both models."""

    question: str
    base: str
    merged: str
    base_right: bool
    merged_right: bool


class Chat(TypedDict):
    """Right answers to general questions, of how many."""

    of: int
    base: int
    merged: int
    rows: list[ChatRow]


class Forgetting(TypedDict):
    """What fine-tuning cost the base in general ability; `chat` is None for a base without a chat template."""

    perplexity: Perplexity
    chat: Chat | None


class FormResult(TypedDict):
    """An answer form: its quality and its latency, which is `times_read` times that of `read`."""

    form: str
    steps: int
    rows: int
    f1: Estimate
    answer_tokens: float
    latency: Percentiles
    merge_label_agreement: float
    times_read: float


class Resource(TypedDict):
    """A resource of the training: planned and measured."""

    name: str
    unit: str
    planned: float
    measured: float
    basis: str


class StageFigures(TypedDict):
    """A stage of the run; `figures` are those of its manifest and differ from stage to stage."""

    name: str
    wall_s: float
    figures: dict[str, Any]


class Device(TypedDict):
    """The machine."""

    cpu: str
    cores: int | None
    memory_gib: float
    gpus: NotRequired[list[str]]


class BundleId(TypedDict):
    """Which bundle was judged."""

    id: str
    model: str
    form: str


class PackedCheck(TypedDict):
    """Scores of a packed forward pass against those of the model's own modules in transformers.

    Attributes:
        rows: How many rows were computed in both ways.
        logit_error: Norm of the difference of their logits over the norm of the logits less their mean at a position.
        worst_row: The same for the row where it is largest.
        label_agreement: |A ∩ B| / |A ∪ B| of the decoded labels.
    """

    rows: int
    logit_error: float
    worst_row: float
    label_agreement: float


class Report(TypedDict):
    """Everything that report.json contains, and all that the templates read.

    Attributes:
        constrained: Whether decoding gives the served student only labels that the task allows; from version 3 on.
        confidence: Level of the intervals.
        copied: The served student scored against the teacher's labels instead of gold.
        idle: Latency of single requests on an idle server.
        history: Lines of the training's history (`student.training.history`).
        headline: The answer of the report; from version 4 on.
        packed: By system whose predictions were computed packed: how a sample agrees with transformers.
        decisions: What people decided about the labels; absent where nobody did.
    """

    schema: int
    task: str
    finished: str
    bundle: BundleId
    constrained: NotRequired[bool]
    headline: NotRequired[Headline]
    verdict: list[VerdictLine]
    confidence: float
    resamples: int
    interval: str
    people: Agreement | None
    systems: dict[str, Quality]
    served: str
    copied: Quality | None
    differences: list[NamedDifference]
    teacher_confidence: Calibration | None
    student_confidence: Calibration | None
    idle: Percentiles | None
    latency: SteadyLatency | None
    bench: LatencyBench | None
    cost: CostReport
    forgetting: Forgetting
    forms: list[FormResult]
    history: list[dict[str, Any]]
    mistakes: ErrorAnalysis
    errors: list[WrongAnswer]
    training: list[Resource]
    stages: list[StageFigures]
    versions: dict[str, str]
    device: Device
    git: str | None
    note: str
    changes: Changes | None
    packed: NotRequired[dict[str, PackedCheck]]
    decisions: NotRequired[Decisions]


def read_report(path: Path) -> Report | None:
    """A report of an earlier evaluation; None where there is none, or one of a schema that cannot be read."""
    found = read_json(path) if path.exists() else None
    return cast("Report", found) if found and found.get("schema") in _READABLE else None


def refuse_report(path: Path, *, field: str, expected: str) -> None:
    """Raise `InputError` where a report is given in place of other input; says which version wrote it.

    Args:
        path: A file that a user gave; one that is no report, or does not exist, is left to whoever reads it.
        field: The option or argument.
        expected: What it takes.
    """
    schema = _schema_of(path) if path.is_file() else None
    if schema is None:
        return
    age = "of this version" if schema == SCHEMA else "written by a newer version" if schema > SCHEMA else (
        f"written by an older version; this one writes schema {SCHEMA}"
    )
    raise InputError(
        f"a report ({f'schema {schema}, ' if schema else ''}{age}), not what it reports on", file=path, field=field,
        expected=expected, fix="The answers that it judges lie beside it, in predictions/; `limbeck evaluate TASK` "
        "writes the report again, as this version does",
    )


def _schema_of(path: Path) -> int | None:
    """The schema of a report, be it JSON, a page or a summary; 0 where it does not say, None for any other file."""
    if path.suffix not in (".json", ".html", ".md"):
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".json":
        try:
            found = json.loads(text)
        except ValueError:
            return None
        return int(found["schema"]) if isinstance(found, dict) and {"schema", "systems"} <= found.keys() else None
    said = _PAGE_SCHEMA.search(text)
    return int(said[1]) if said else 0 if _PAGE.search(text) else None

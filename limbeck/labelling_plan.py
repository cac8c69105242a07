"""The teacher's part of `limbeck plan`: queries, calls, tokens, money and time of the label stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from limbeck.inputs import Inputs
from limbeck.run import Run
from task.labels import Example
from task.readers import Conversion, Item
from task.spec import Task
from teacher.backends.job import Sources

if TYPE_CHECKING:
    from teacher.backends.backend import Backend
    from teacher.backends.llm.plan_ahead import Ahead

# Measured label stages: the rates of these kept runs (a test compares them), for backends that ask no LLM.
QUERIES_PER_S: Final[Mapping[str, tuple[float, str]]] = {
    "catalog": (360.0, "benchmarks/results/market.json"), "labels": (4_430.0, "benchmarks/results/queryner.json"),
}
_SECONDS_A_CALL = 2.0
_SPARE = 1.1  # for what the estimate may be wrong by
_SMALL = 0.1  # amounts below it are shown with four digits after the point
_ASSUMED_QUERY, _ASSUMED_ITEMS, _ASSUMED_BOUGHT = "the maker some product 500 g", 20, 5


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the plan."""

    name: str
    value: str
    basis: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What of a run is finished and still follows from its task: it is told instead of estimated.

    Attributes:
        label: Figures of the label stage.
        rows: Training rows of the curriculum.
    """

    label: Mapping[str, Any] | None = None
    rows: int | None = None


NOTHING: Final = Standing()


@dataclass(frozen=True, slots=True)
class Spending:
    """What labelling the log from scratch costs, and what a budget reserves for one call."""

    cost: float
    reserved: float

    @property
    def needed(self) -> float:
        """The least budget that is likely to be enough."""
        return _SPARE * self.cost + self.reserved

    @property
    def basis(self) -> str:
        """How that is computed."""
        least = f"{self.needed:,.2f}" if self.needed >= _SMALL else f"{self.needed:.4f}"
        return f"at least {least} is: {_SPARE:g} times the estimate, and {self.reserved:.4f} reserved for a call"


def spending(task: Task, run: Run) -> Spending | None:
    """The estimate behind the plan's line `budget`; None where no price is known or the data is not here.

    Raises:
        InputError: See `teacher_lines`.
    """
    from llm_client.prices import needed_price
    from teacher.backends.backend import backend_of
    from teacher.label import distinct, queries_to_label

    backend, sources = backend_of(task), sources_here(task, run)
    if sources is None or backend.local:
        return None
    ahead = _with_ledger(task, sources, queries_to_label(task, sources, distinct(sources.log), backend), run)
    price = needed_price(task.teacher.openai, batch=backend.batch)
    cost = price.of(prompt=round(ahead.likely.prompt), completion=round(ahead.likely.completion))
    return Spending(cost, price.of(prompt=ahead.most[0], completion=ahead.most[1]))


def cost_of(task: Task, run: Run, queries: Sequence[Example]) -> float | None:
    """What asking the teacher for labels of these queries is likely to cost: 0 where no provider is paid.

    None where no price is known, or the data that prompts are made of is not here.
    """
    from llm_client.prices import price_of
    from teacher.backends.backend import backend_of

    backend, sources = backend_of(task), sources_here(task, run)
    if backend.local or not backend.asks_llm:
        return 0.0
    price = price_of(task.teacher.openai, batch=backend.batch)
    if sources is None or price is None:
        return None
    likely = _with_ledger(task, sources, queries, run).likely
    return price.of(prompt=round(likely.prompt), completion=round(likely.completion))


def teacher_lines(
    task: Task, queries: int, source: str, run: Run | None = None, standing: Standing = NOTHING
) -> list[Line]:
    """The estimate of the label stage from scratch, whatever the ledger has.

    Args:
        queries: Their number in the log, and `source`, what it was read from.
        run: Its inputs are read where they are on this machine, and its ledger, if there is one, says how long answers
            are.
        standing: Its label stage says whether confidences could be calibrated.

    Raises:
        InputError: A table is malformed, or a budget is set for a model without a price.
    """
    from teacher.backends.backend import backend_of

    backend = backend_of(task)
    sources = sources_here(task, run)
    gold, lines = [], [Line("queries", f"{queries:,}", source)]
    if sources is not None:
        from teacher.label import distinct, queries_to_label

        log = distinct(sources.log)
        gold = queries_to_label(task, sources, log, backend)[len(log) :]
    if gold:
        lines.append(Line("gold queries", f"{len(gold):,}", "labelled too: for calibration and the comparison"))
    lines += _asking(task, backend, sources, queries, gold, run) if backend.asks_llm else [
        Line("calls", "0", f"backend {task.teacher.backend} asks no LLM"), Line("money", "0.00", "no LLM"),
        _computing(task, queries + len(gold)),
    ]
    if sources is not None and backend.estimates_confidence:
        lines.append(_calibration(task, len(distinct(sources.calibration)), standing.label))
    return lines


def sources_here(task: Task, run: Run | None) -> Sources | None:
    """What the teacher may use, if it is on this machine: nothing is generated or downloaded."""
    folder = task.data.dir
    if folder is not None and folder.exists():
        return (run.inputs if run else Inputs(task, folder)).teacher
    if task.data.sample and run is not None and (run.files.sample / "manifest.json").exists():
        return run.inputs.teacher
    return None


def _computing(task: Task, queries: int) -> Line:
    rate, measured = QUERIES_PER_S[task.teacher.backend]
    return Line("time", minutes(queries / rate), f"{rate:,.0f} queries/s, measured on 2 cores: {measured}")


def _asking(
    task: Task, backend: Backend, sources: Sources | None, queries: int, gold: list[Example], run: Run | None
) -> Iterator[Line]:
    from llm_client.prices import needed_price, price_of
    from teacher.backends.llm.plan_ahead import plan_ahead
    from teacher.label import distinct

    s = task.teacher.openai
    if sources is None:
        ahead = plan_ahead(task, _assumed(task), [Example(_ASSUMED_QUERY)])
        likely = ahead.likely.times(queries)
    else:
        ahead = _with_ledger(task, sources, [*distinct(sources.log), *gold], run)
        likely = ahead.likely
    tokens = round(likely.prompt), round(likely.completion)
    price = (needed_price if s.budget and not backend.local else price_of)(s, batch=backend.batch)
    each = likely.calls / max(1, queries + len(gold))
    yield Line("calls", f"{likely.calls:,.0f}", f"{each:.3g} a query to {s.model}, retries aside")
    basis = "prompts as they would be sent, answers as long as known labels"
    if ahead.measured:
        basis = f"corrected by what {ahead.measured:,} answers to this prompt took: the ledger"
    yield Line("tokens", f"{tokens[0]:,} in, {tokens[1]:,} out", basis)
    if backend.local:
        yield Line("money", "0.00", "a local model; the machine's time is not counted")
    elif price is None:
        yield Line(
            "money", "unknown", "set teacher.openai.price_input_per_million and price_output_per_million"
        )
    else:
        cost = price.of(prompt=tokens[0], completion=tokens[1])
        basis = f"{price.input:g} and {price.output:g} per million tokens in and out: {price.source}"
        yield Line("money", f"{cost:,.2f}", basis)
        if s.budget:
            spending = Spending(cost, price.of(prompt=ahead.most[0], completion=ahead.most[1]))
            enough = "enough" if spending.needed <= s.budget else "may stop the job early"
            yield Line("budget", f"{s.budget:,.2f}", f"{enough}; {spending.basis}")
    yield (
        Line("time", "up to 24 h", "the provider's batch window") if backend.batch else
        Line("time", minutes(likely.calls * _SECONDS_A_CALL / s.concurrency),
             f"{_SECONDS_A_CALL:g} s a call, {s.concurrency} in flight")
    )


def _with_ledger(task: Task, sources: Sources, queries: Sequence[Example], run: Run | None) -> Ahead:
    """The plan of calls, corrected by what they took so far where the run has a ledger."""
    from teacher.backends.llm.plan_ahead import plan_ahead
    from teacher.ledger.ledger import Ledger

    if run is None or not run.files.ledger.exists():
        return plan_ahead(task, sources, queries)
    with Ledger(run.files.ledger) as ledger:
        return plan_ahead(task, sources, queries, ledger)


def _assumed(task: Task) -> Sources:
    """A catalogue and purchases of usual length, for a task whose data is not on this machine."""
    if not (task.data.catalogue or task.data.sample):
        return Sources([])
    fields = {r.catalogue.removeprefix("attributes."): "a value" for r in task.roles if r.catalogue}
    items = [
        Item(str(i), f"Some maker, an item of the catalogue {i}, 500 g", f"maker {i}", f"Root {i} > Leaf {i}", fields)
        for i in range(_ASSUMED_ITEMS)
    ]
    bought = [Conversion(_ASSUMED_QUERY, str(i), 1) for i in range(_ASSUMED_BOUGHT)]
    near = [Conversion(f"{_ASSUMED_QUERY} {i}", str(i), 1) for i in range(_ASSUMED_ITEMS)]
    return Sources([], items, [*bought, *near])


def _calibration(task: Task, rows: int, labelled: Mapping[str, Any] | None) -> Line:
    needed = task.teacher.confidence.min_rows
    if labelled is not None and "uncalibrated" in labelled:  # not in a manifest of before
        why = labelled["uncalibrated"]
        return Line("confidence", "not calibrated", why) if why else Line(
            "confidence", "calibrated", f"by the label stage, with {rows:,} rows in data.gold.calibration"
        )
    if rows >= needed:
        return Line(
            "confidence", "to be calibrated", f"{rows:,} rows in data.gold.calibration; not where all labels are right"
        )
    found = f"{rows:,} rows in data.gold.calibration, teacher.confidence.min_rows is {needed:,}"
    return Line("confidence", "not calibrated", found)


def minutes(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

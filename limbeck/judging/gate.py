"""`limbeck gate`: serve a bundle, and the released one beside it, and judge it by its task's gates."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.judging.gate_evidence import advise, agreement_on, evidence_of, margins, student_confidence
from limbeck.judging.gate_sources import merged_answers, sources_of
from limbeck.judging.served import UNCHECKED, Served, ask
from task.errors import InputError, warn
from task.labels import Example
from task.progress import Progress

if TYPE_CHECKING:
    from eval.gate import Agreement, Check, Margins
    from eval.quality_schema import Estimate
    from serving.release.bundle import Bundle
    from task.spec import Task

_WARM_UP, _BATCH = 20, 64


@dataclass(frozen=True, slots=True)
class F1:
    """F1 on some queries, by value.

    Attributes:
        rows: Number of queries; drawn ones count as often as they were drawn.
        released: Of the bundle that is released now; None where there is none.
        difference: To that.
    """

    rows: int
    new: Estimate
    released: Estimate | None
    difference: Estimate | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a gate found.

    Attributes:
        drawn: On requests drawn from the traffic; None where none were given.
        overrides: Settings that were taken in place of the bundle's own (`serving.release.verdict`).
    """

    checks: list[Check]
    gold: F1
    drawn: F1 | None
    overrides: Sequence[str] = ()


def gate(
    folder: Path, gold_file: Path | str, progress: Progress, *, overrides: Sequence[str] = (),
    teacher_file: Path | None = None, log_file: Path | None = None, released_from: Path | None = None,
    pairs: int = 300, drawn: Sequence[Example] = (),
) -> Judgement:
    """Judge a bundle and record the verdict in its manifest.

    Args:
        overrides: `gates.NAME=VALUE` and `eval.NAME=VALUE`, replacing the bundle's own values.
        teacher_file: The teacher's labels of the gold queries; None takes those of the run that the bundle lies in.
        log_file: The query log, for slices by traffic; None takes that of the run.
        released_from: The bundle that is released now, or a pointer to it.
        pairs: Number of queries that both bundles answer alternately, for `gates.max_slower`.
        drawn: Requests drawn from the traffic, with the teacher's labels, for `gates.traffic_margin`; their `count` is
            how often each was drawn.

    Raises:
        InputError: The bundle is damaged, a file is malformed, or a rule needs one that is missing.
    """
    from eval.gate import judge
    from eval.quality import quality
    from serving.release.bundle import open_bundle, stamp
    from serving.release.verdict import overrides as overridden_settings
    from task.load import override_judging
    from task.readers import read_labels

    bundle = open_bundle(folder)
    task = override_judging(bundle.task, overrides)
    gold = read_labels(gold_file, task)
    found_for = sources_of(folder, task, gold, teacher_file=teacher_file, log_file=log_file)
    other = _released(released_from, bundle)
    merged = merged_answers(folder, gold)
    # As `limbeck run` does: the same rows, so that both give one judgement.
    reference = bundle.reference() if merged is None else []
    if merged is None:
        _check_measurable(bundle, task, reference)
    _check_latency_run(task)
    found_by = _measured(
        bundle, other, gold=gold, reference=reference, drawn=drawn, task=task, pairs=pairs, progress=progress
    )
    served, said, before = found_by.new, found_by.reference, found_by.released
    if merged is not None:
        agreement = agreement_on(merged, served.rows, kind="gold")
    elif reference:
        agreement = agreement_on(reference, said, kind="reference")
    else:
        agreement = _engine_agreement(bundle)
    found = quality(gold, served.rows, task, invalid=served.invalid)
    on_drawn = _f1_of_draws(drawn, found_by, task) if drawn else None
    evidence = evidence_of(
        task, gold, served, found, student_confidence(task, gold, served), teacher=found_for.teacher,
        teacher_rows=found_for.rows,
        traffic=found_for.traffic, agreement=agreement, released=before,
        drawn=on_drawn and on_drawn[1], slower=found_by.slower,
        constrained=bundle.codec.answer_form.constrained,
    )
    checks = judge(task.gates, evidence)
    advise(checks, task, bundle.folder)
    changed = overridden_settings(bundle.task, task)
    stamp(bundle.folder, [c.to_json() for c in checks], changed)
    on_gold = _f1(gold, found["value"]["f1"], before, evidence.released, task)
    return Judgement(checks, on_gold, on_drawn and on_drawn[0], changed)


def _f1(
    truth: Sequence[Example], new: Estimate, released: Sequence[Example] | None, less: Margins | None, task: Task
) -> F1:
    """F1 beside that of the released bundle's answers; `less` are the differences to these."""
    from eval.quality import quality

    before = None if released is None else quality(truth, released, task)["value"]["f1"]
    return F1(len(truth), new, before, None if less is None else less["f1"])


def _f1_of_draws(drawn: Sequence[Example], found: _Measured, task: Task) -> tuple[F1, Margins | None]:
    """F1 of the requests: each query as often as it was drawn, for draws with replacement are independent."""
    from eval.quality import quality

    times = [i for i, row in enumerate(drawn) for _ in range(row.count)]
    truth, new = ([rows[i] for i in times] for rows in (drawn, found.drawn))
    released = None if found.released_drawn is None else [found.released_drawn[i] for i in times]
    less = None if released is None else margins(truth, new, released, task)
    return _f1(truth, quality(truth, new, task)["value"]["f1"], released, less, task), less


@dataclass(frozen=True, slots=True)
class _Measured:
    """What both bundles answered.

    Attributes:
        new: The bundle's answers to the gold queries.
        reference: Those to its reference queries.
        drawn: Those to the drawn requests.
        released: The released bundle's answers to the gold queries.
        released_drawn: Those to the drawn requests.
        slower: The latency difference.
    """

    new: Served
    reference: list[Example]
    drawn: list[Example]
    released: list[Example] | None = None
    released_drawn: list[Example] | None = None
    slower: Estimate | None = None


def _measured(
    bundle: Bundle, other: Bundle | None, *, gold: Sequence[Example], reference: Sequence[Example],
    drawn: Sequence[Example], task: Task, pairs: int, progress: Progress,
) -> _Measured:
    """Serve the bundle, and the released one beside it, and ask both."""
    from eval.endpoint import Target
    from eval.latency import times_as_slow
    from eval.load_generator import in_turns
    from serving.client import label_all, served

    with tempfile.TemporaryDirectory(prefix="limbeck-gate-") as state, contextlib.ExitStack() as stack:
        progress.begin("starting the engine and the gateway")
        url = stack.enter_context(served(bundle.folder, state=Path(state) / "new", options=UNCHECKED))
        new = ask(url, bundle.folder, gold, task, progress, load=task.gates.slo is not None)
        if reference:
            progress.begin("reference answers", len(reference))
        said = label_all(url, reference, batch=_BATCH, done=progress.advance)
        if drawn:
            progress.begin("drawn requests", len(drawn))
        sampled = label_all(url, drawn, batch=_BATCH, done=progress.advance)
        if other is None:
            return _Measured(new, said, sampled)
        progress.begin("starting the released bundle")
        beside = stack.enter_context(served(other.folder, state=Path(state) / "released"))
        progress.begin("the released bundle", len(gold))
        before = label_all(beside, gold, batch=_BATCH, done=progress.advance)
        theirs_drawn = label_all(beside, drawn, batch=_BATCH, done=progress.advance)
        queries = [gold[i % len(gold)].query for i in range(pairs + _WARM_UP)]
        progress.begin("both bundles alternately", len(queries))
        mine, theirs = in_turns([Target(url), Target(beside)], queries, use_cache=False, on_done=progress.advance)
        slower = times_as_slow(mine.latency[_WARM_UP:], theirs.latency[_WARM_UP:])
        return _Measured(new, said, sampled, before, theirs_drawn, slower)


def _released(source: Path | None, bundle: Bundle) -> Bundle | None:
    """The bundle that is released now; None where there is none, or it is this one."""
    from serving.release.pointer import open_source

    if source is None:
        return None
    if source.suffix == ".json" and not source.exists():
        warn(
            "no bundle has been released there, so gates.released_margin and gates.max_slower have nothing to compare "
            "with", file=source, field="--released", fix="Check the path, if this is not the first release",
        )
        return None
    other = open_source(source)
    if other.task.name != bundle.task.name:
        raise InputError(
            "the released bundle is of another task", field="--released", found=other.task.name,
            expected=bundle.task.name,
        )
    if other.id == bundle.id:
        warn(
            f"the released bundle is this one, {bundle.id}: gates.released_margin and gates.max_slower would compare "
            "it with itself and are left out", field="--released", fix="Check the path, if this is to be a new bundle",
        )
        return None
    return other


def _check_measurable(bundle: Bundle, task: Task, reference: Sequence[Example]) -> None:
    """Raise `InputError` for a rule that would fail after minutes because nothing here measures it."""
    gates = task.gates
    if gates.engine_label_agreement is not None and not reference and _engine_agreement(bundle) is None:
        raise InputError(
            "the bundle has no reference answers to compare its engine with", file=bundle.folder,
            field="gates.engine_label_agreement",
            fix="Run `limbeck evaluate` first, or leave the rule out with --set gates.engine_label_agreement=null",
        )


def _check_latency_run(task: Task) -> None:
    gates = task.gates
    if gates.slo is not None and not task.eval.latency.seconds:
        raise InputError(
            "gates.slo needs a latency run", field="eval.latency.seconds", found=task.eval.latency.seconds,
            expected="the seconds of a run", fix="--set eval.latency.seconds=10, or leave it out: --set gates.slo=null",
        )


def _engine_agreement(bundle: Bundle) -> Agreement | None:
    """The agreement that `limbeck evaluate` recorded for this bundle, for forms without reference answers."""
    from eval.gate import Agreement

    noted = bundle.manifest.get("gate")
    if not noted or noted["bundle"] != bundle.id:
        return None
    found = next((c["evidence"] for c in noted["checks"] if c["rule"] == "engine_label_agreement"), None)
    if isinstance(found, Mapping):
        return Agreement(found["value"], found["labels"], found["queries"])
    return None if found is None else Agreement(float(found))

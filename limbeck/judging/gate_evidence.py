"""What the gate is shown: how the served student did, beside its teacher and beside the bundle that is released."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.judging.served import Served
from task.labels import Example
from task.spec import Task

if TYPE_CHECKING:
    from eval.gate import Evidence


def evidence_of(
    task: Task, gold: Sequence[Example], served: Served, quality: Mapping[str, Any],
    confidence: Mapping[str, Any] | None, *, teacher: Sequence[Example] | None = None,
    traffic: Sequence[str] | None = None, agreement: float | None = None, released: Sequence[Example] | None = None,
    slower: Mapping[str, Any] | None = None,
) -> Evidence:
    """Evidence for `eval.gate.judge`.

    Args:
        quality: What `eval.quality.quality` says of the served student.
        confidence: What `student_confidence` says.
        teacher: Its labels of the gold queries.
        traffic: `head`, `torso` or `tail` of each.
        agreement: Share of labels on which engine and merged model agree.
        released: Answers of the bundle that is released now.
        slower: How much slower than that one this is (`eval.latency.times_as_slow`).
    """
    from eval.gate import Evidence
    from eval.quality import paired_difference
    from eval.slices import parts

    def less(other: Sequence[Example], rows: Sequence[int]) -> dict[str, Any]:
        truth, ours, theirs = ([x[i] for i in rows] for x in (gold, served.rows, other))
        return {"rows": len(rows)} | {s: paired_difference(truth, ours, theirs, task, s) for s in ("f1", "recall")}

    everywhere = range(len(gold))
    by_slice = {
        name: less(teacher, [i for i, part in enumerate(traffic) if part == name]) for name in parts("traffic", traffic)
    } if teacher and traffic else None
    steady = served.bench.figures["steady"] if served.bench else None
    return Evidence(
        f1=quality["value"]["f1"], engine_agreement=None if agreement is None else round(agreement, 6),
        invalid=quality.get("invalid"), teacher=less(teacher, everywhere) if teacher else None,
        teacher_slices=by_slice, released=less(released, everywhere) if released else None, slower=slower,
        ece=confidence["ece"] if confidence else None, latency=steady["miss"] if steady else None,
        latency_valid=bool(steady and steady["valid"]), first_release=released is None,
    )


def student_confidence(task: Task, gold: Sequence[Example], served: Served) -> dict[str, Any] | None:
    """How the probability that the service states does on gold that it was not fitted on."""
    from eval.calibration import assess
    from eval.matching import exact
    from task.normalize import normaliser

    known = [i for i, p in enumerate(served.probability) if p is not None]
    normalise = normaliser(task.normaliser)
    right = [exact(served.rows[i].labels, gold[i].labels, normalise) for i in known]
    if len(set(right)) < 2:
        return None
    probability = [float(served.probability[i] or 0.0) for i in known]
    return assess(probability, right, known, seed=task.eval.seed, level=task.eval.confidence)

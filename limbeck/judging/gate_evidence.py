"""Evidence for the gate: the served student, alone and against its teacher and the released bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.judging.served import Served
from task.errors import warn
from task.files import read_json
from task.labels import Example
from task.spec import Task

if TYPE_CHECKING:
    from eval.gate import Agreement, Check, GateEvidence, Margins
    from eval.quality_schema import Calibration, Estimate, Quality


def evidence_of(
    task: Task, gold: Sequence[Example], served: Served, quality: Quality, confidence: Calibration | None, *,
    teacher: Sequence[Example] | None = None, teacher_rows: Sequence[int] | None = None,
    traffic: Sequence[str] | None = None, agreement: Agreement | None = None, released: Sequence[Example] | None = None,
    drawn: Margins | None = None, slower: Estimate | None = None, constrained: bool = False,
) -> GateEvidence:
    """Evidence for `eval.gate.judge`.

    Args:
        quality: Quality of the served student.
        confidence: Its calibration (`student_confidence`).
        teacher: The teacher's labels of the gold queries.
        teacher_rows: The gold rows that it answered, by default all: it is compared on no others.
        traffic: `head`, `torso` or `tail` of each gold query.
        agreement: On how many labels engine and merged model agree (`agreement_on`).
        released: Answers of the bundle that is released now.
        drawn: Differences to it on requests drawn from the traffic (`margins`).
        slower: Relative latency difference to that bundle (`eval.latency.times_as_slow`).
        constrained: Whether the student's answer form gives only labels that the task allows.
    """
    from eval.gate import GateEvidence
    from eval.slices import parts

    def difference(other: Sequence[Example], rows: Sequence[int]) -> Margins:
        truth, ours, theirs = ([x[i] for i in rows] for x in (gold, served.rows, other))
        return margins(truth, ours, theirs, task)

    everywhere = range(len(gold))
    asked = everywhere if teacher_rows is None else teacher_rows
    by_slice = {
        name: difference(teacher, rows) for name in parts("traffic", traffic)
        if (rows := [i for i in asked if traffic[i] == name])
    } if teacher and traffic else None
    steady = served.bench.figures["steady"] if served.bench else None
    return GateEvidence(
        f1=quality["value"]["f1"], engine_agreement=agreement,
        invalid=quality.get("invalid"), invalid_kinds=quality.get("invalid_kinds"), constrained=constrained,
        teacher=difference(teacher, asked) if teacher and asked else None,
        teacher_slices=by_slice, released=difference(released, everywhere) if released else None, traffic=drawn,
        slower=slower,
        ece=confidence.get("ece") if confidence else None, latency=steady.get("miss") if steady else None,
        latency_valid=bool(steady and steady["valid"]), first_release=released is None,
    )


def margins(truth: Sequence[Example], ours: Sequence[Example], theirs: Sequence[Example], task: Task) -> Margins:
    """Paired differences, ours minus theirs, on the same queries in the same order."""
    from eval.quality import paired_difference

    f1, recall = (paired_difference(truth, ours, theirs, task, s) for s in ("f1", "recall"))
    return {"rows": len(truth), "f1": f1, "recall": recall}


def agreement_on(one: Sequence[Example], other: Sequence[Example], *, kind: str) -> Agreement | None:
    """How many labels two systems have in common; None where neither has any, so that nothing was compared.

    Args:
        kind: What the queries are, `gold` or `reference`: it is said with the figure.
    """
    from eval.gate import Agreement
    from eval.quality import compared_labels, label_agreement

    labels = compared_labels(one, other)
    if not labels:
        return None
    return Agreement(round(label_agreement(one, other), 6), labels, f"{len(one):,} {kind} queries")


def advise(checks: Sequence[Check], task: Task, bundle: Path) -> None:
    """Say what to change where the engine was measured and does not keep enough of the merged student's labels.

    Args:
        bundle: In a run folder the stage that wrote it knows in how many bits the student was exported.
    """
    from limbeck.artefacts import run_of_bundle
    from limbeck.openvino_model import how_to_agree

    run = run_of_bundle(bundle)
    figures = {} if run is None else read_json(run.bundle.folder / "manifest.json")["figures"]
    bits = (figures.get("openvino") or {}).get("bits")
    eight_bits = None if bits is None else bits == 8
    for check in checks:
        if check.rule == "engine_label_agreement" and not check.ok and check.evidence is not None:
            warn(check.text, fix=how_to_agree(task.serving, eight_bits=eight_bits))


def student_confidence(task: Task, gold: Sequence[Example], served: Served) -> Calibration | None:
    """Calibration of the probability that the service returns, on gold rows that it was not fitted on."""
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

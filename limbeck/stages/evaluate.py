"""The evaluate stage: all systems on the same gold rows, the served one through HTTP and under load, then the gate."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from limbeck.artefacts import EvaluateFolder
from limbeck.environment import device, git_commit, versions
from limbeck.judging.gate_evidence import advise, agreement_on, evidence_of, student_confidence
from limbeck.judging.offline_systems import (
    DICTIONARY,
    MERGED,
    TEACHER,
    UNTUNED,
    answered,
    learned,
    offline,
    teacher_confidence,
    teachers_rows,
)
from limbeck.judging.report_content import (
    bundle_id,
    decisions,
    form_results,
    remarks,
    run_cost,
    stage_figures,
    teacher_remarks,
    training_history,
    training_resources,
    wrong_answers,
)
from limbeck.judging.served import SERVED, serve_and_ask
from limbeck.run import Run
from limbeck.stage import Figures, Result, Stage
from limbeck.staleness import Rules
from task.errors import GateError, warn
from task.files import read_json, sha256_file, write_jsonl
from task.labels import Example
from task.spec import Task

if TYPE_CHECKING:
    from eval.gate import GateEvidence
    from eval.latency_schema import LatencyBench
    from eval.quality_schema import NamedDifference, Quality
    from eval.report_schema import Report

_T = TypeVar("_T")


def stage(before: Sequence[Stage]) -> Stage:
    """The stage.

    Args:
        before: The stages of a run that come before it, in order: the report shows their figures and what they cost.
    """
    return Stage(
        name="evaluate", config=lambda run: run.task.model_dump(mode="json", include={"eval", "gates", "serving"}),
        inputs=_inputs, rules=_rules, work=lambda run, folder: _work(run, EvaluateFolder(folder), before),
        headline=lambda f: str(f["summary"]), scratch=frozenset({"serve", "report.html"}),
    )


def note_verdict(run: Run, result: Result) -> None:
    """Store the verdict of an evaluation in the bundle; it decides whether the bundle may be released.

    If the evaluation was skipped, an existing verdict is kept: it may be from a later `limbeck gate` with more rules.

    Raises:
        GateError: A rule of the task's `gates` does not hold; the message names each.
    """
    from serving.release.bundle import stamp
    from serving.release.verdict import overrides

    checks, bundle = result.figures["checks"], run.files.bundle
    if not result.skipped or "gate" not in read_json(bundle.manifest):
        # A bundle is not made again for other gates: these may have changed since.
        stamp(bundle.bundle, checks, overrides(Task.model_validate(read_json(bundle.bundle / "task.json")), run.task))
    failed = [c["text"] for c in checks if not c["ok"]]
    if failed:
        raise GateError("the bundle does not pass: " + "; ".join(failed))


def _inputs(run: Run) -> dict[str, str]:
    inputs = {n: run.digest(n) for n in ("label", "train", "merge", "bundle")}
    if run.files.answer_forms.exists():
        inputs["forms"] = sha256_file(run.files.answer_forms)
    if run.inputs.source("catalogue") is not None:  # the dictionary is made of it
        inputs["catalogue"] = run.inputs.fingerprint("catalogue")
    if run.files.label.compared.exists():
        inputs["teacher on gold"] = sha256_file(run.files.label.compared)
    return inputs | {"gold": run.inputs.fingerprint("test", "annotations")}


def _rules(_run: Run) -> Rules:
    import eval as measures
    from eval.report_schema import SCHEMA
    from task import READERS

    return {"metrics": measures.VERSION, "readers": READERS, "report": SCHEMA}


def _work(run: Run, files: EvaluateFolder, before: Sequence[Stage]) -> Figures:
    """Write predictions, `report.json`, `.html`, `.md` and `.csv`; returns the manifest's figures."""
    from eval.annotator_agreement import ceiling
    from eval.error_analysis import by_kind
    from eval.gate import judge
    from eval.headline import headline
    from eval.prediction_files import prediction_row
    from eval.quality import by_slice, paired, quality
    from eval.report import write
    from eval.report_changes import changes
    from eval.report_schema import SCHEMA, read_report
    from eval.slices import slices_of
    from task.codec import load_codec

    task, progress = run.task, run.progress
    gold = run.inputs.judged
    slices = slices_of(gold, task, log=run.inputs.teacher.log, train=learned(run.files.curriculum))
    predictions, packed = offline(run, gold)
    served = serve_and_ask(run.files.bundle.bundle, files.served, gold, task, progress)
    predictions[SERVED] = served.rows
    faults = {SERVED: served.invalid}  # the other systems do not say which answers could not be read
    for name, rows in predictions.items():
        marks = faults.get(name, [None] * len(rows))
        write_jsonl(files.predictions(name), (prediction_row(*x) for x in zip(rows, marks, strict=True)))
    progress.begin("scoring", len(predictions))
    asked = _rows_of(predictions, run, gold)
    systems = {}
    for name, rows in predictions.items():
        cut = {dimension: _at(of, asked[name]) for dimension, of in slices.items()}
        systems[name] = quality(
            _at(gold, asked[name]), _at(rows, asked[name]), task, slices=cut, invalid=faults.get(name)
        )
        progress.advance()
    teacher = predictions.get(TEACHER)
    # The teacher's labels are no gold: fidelity to the teacher is reported apart.
    copied = quality(_at(teacher, asked[TEACHER]), _at(served.rows, asked[TEACHER]), task) if teacher else None
    differences: list[NamedDifference] = [
        {"a": "student", "b": name, **paired(
            _at(gold, asked[name]), _at(served.rows, asked[name]), _at(predictions[name], asked[name]), task
        ), "slices": by_slice(gold, served.rows, predictions[name], task, slices=slices, rows=asked[name])}
        for name in (TEACHER, DICTIONARY) if name in predictions
    ]
    known = {*asked.get(TEACHER, ())}
    other = None if teacher is None else [x if i in known else None for i, x in enumerate(teacher)]
    confidence = student_confidence(task, gold, served)
    bench = served.bench.figures if served.bench else None
    traffic = slices.get("traffic")
    constrained = load_codec(run.files.bundle.bundle).answer_form.constrained
    evidence = evidence_of(
        task, gold, served, systems[SERVED], confidence, teacher=teacher, teacher_rows=asked.get(TEACHER),
        traffic=traffic, agreement=agreement_on(predictions[MERGED], served.rows, kind="gold"), constrained=constrained,
    )
    judged = judge(task.gates, evidence)
    advise(judged, task, run.files.bundle.bundle)
    checks = [c.to_json() for c in judged]
    figures, about_teacher = _figures(systems, evidence, bench), teacher_remarks(run, gold)
    report: Report = {
        "schema": SCHEMA, "task": task.name,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "bundle": bundle_id(run), "constrained": constrained,
        "headline": headline(checks, differences, [x["text"] for x in about_teacher], teacher=TEACHER),
        "verdict": [*checks, *remarks(differences), *about_teacher],
        "confidence": task.eval.confidence, "resamples": task.eval.resamples, "interval": task.eval.interval,
        "people": ceiling(gold, run.inputs.annotations, task) if run.inputs.annotations else None,
        "systems": systems, "served": SERVED, "copied": copied, "differences": differences,
        "teacher_confidence": teacher_confidence(run, gold), "student_confidence": confidence,
        "idle": bench["cold"] if bench else None, "latency": bench["steady"] if bench else None, "bench": bench,
        "cost": run_cost(run, served, before), "forgetting": read_json(run.files.merge.forgetting),
        "forms": form_results(run), "history": training_history(run),
        "mistakes": by_kind(gold, served.rows, task, slices=traffic, other=other),
        "errors": wrong_answers(run, gold, predictions, traffic), "training": training_resources(run),
        "stages": stage_figures(run, before), "versions": versions(), "device": device(), "git": git_commit(),
        "note": task.eval.note, "changes": None, "packed": dict(packed),
    }
    if found := decisions(run):
        report["decisions"] = found
    earlier = read_report(run.files.evaluate.report)
    if earlier:
        report["changes"] = changes(earlier, report)
    elif run.files.evaluate.report.exists():
        warn(
            "the report before this one was written by another version, in a schema that is not read any more: "
            "what has changed since is not shown", file=run.files.evaluate.report,
        )
    write(files.folder, report, served.bench.samples if served.bench else {})
    return figures | {"checks": checks}


def _at(items: Sequence[_T], rows: Sequence[int]) -> list[_T]:
    """The items at some rows."""
    return [items[i] for i in rows]


def _rows_of(
    predictions: Mapping[str, Sequence[Example]], run: Run, gold: Sequence[Example]
) -> dict[str, Sequence[int]]:
    """The gold rows that each system is scored on: all that it predicted; of the teacher's, those that it answered."""
    out: dict[str, Sequence[int]] = {name: range(len(rows)) for name, rows in predictions.items()}
    if TEACHER in out:
        out[TEACHER] = teachers_rows(answered(run.files.label, gold), gold)
    return out


def _figures(systems: Mapping[str, Quality], evidence: GateEvidence, bench: LatencyBench | None) -> dict[str, Any]:
    """Figures and summary for the manifest of the stage."""
    def f1(name: str) -> float | None:
        return systems[name]["value"]["f1"]["value"] if name in systems else None

    idle = bench["cold"]["p50_ms"] if bench else None
    agreed = evidence.engine_agreement
    out: dict[str, Any] = {
        "served_f1": f1(SERVED), "served_span_f1": systems[SERVED]["span"]["f1"]["value"], "teacher_f1": f1(TEACHER),
        "dictionary_f1": f1(DICTIONARY), "untuned_f1": f1(UNTUNED), "engine_label_agreement": agreed and agreed.share,
        "student_p50_ms": idle["value"] if idle else None,
    }
    parts = [f"F1 {100 * out['served_f1']:.1f}"]
    parts += [f"{n} {100 * out[f'{n}_f1']:.1f}" for n in ("teacher", "dictionary") if out[f"{n}_f1"] is not None]
    if out["student_p50_ms"] is not None:
        parts.append(f"p50 of single queries {out['student_p50_ms']:.0f} ms")
    return out | {"summary": ", ".join(parts)}

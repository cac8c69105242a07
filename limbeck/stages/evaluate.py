"""The evaluate stage: every system on the same gold rows, the served one through HTTP and under load, and the gate."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.judging.gate_evidence import evidence_of, student_confidence
from limbeck.judging.offline_systems import DICTIONARY, MERGED, TEACHER, UNTUNED, learned, offline, teacher_confidence
from limbeck.judging.served import Served, serve_and_ask
from limbeck.stage import device, git_commit, versions
from task.files import read_json, write_jsonl
from task.labels import Example, Label

if TYPE_CHECKING:
    from eval.gate import Evidence
    from eval.latency_schema import LatencyBench
    from eval.quality_schema import NamedDifference, Quality
    from eval.report_schema import (
        BundleId,
        CostReport,
        FormResult,
        Report,
        Resource,
        StageFigures,
        VerdictLine,
        WrongAnswer,
    )
    from limbeck.pipeline import Pipeline

SERVED = "student, merged and served"
_EVIDENCE_SHOWN = 4


def evaluate(pipeline: Pipeline, folder: Path) -> Mapping[str, Any]:
    """Write predictions, `report.json`, `.html`, `.md` and `.csv` into `folder`; returns the manifest's figures."""
    from eval.annotator_agreement import ceiling
    from eval.error_analysis import by_kind
    from eval.gate import judge
    from eval.quality import label_agreement, paired, quality
    from eval.report import write
    from eval.report_changes import changes
    from eval.report_schema import SCHEMA, read_report
    from eval.slices import slices_of

    task, console = pipeline.task, pipeline.console
    gold = pipeline.inputs.test[: task.eval.max_rows]
    slices = slices_of(gold, task, log=pipeline.inputs.teacher.log, train=learned(pipeline.run))
    predictions = offline(pipeline, gold)
    served = serve_and_ask(pipeline.run / "bundle" / "bundle", folder / "serve", gold, task, console)
    predictions[SERVED] = served.rows
    for name, rows in predictions.items():
        write_jsonl(folder / "predictions" / f"{name.replace(' ', '-').replace(',', '')}.jsonl",
                    (r.to_json() for r in rows))
    console.begin("scoring", len(predictions))
    systems = {}
    for name, rows in predictions.items():
        cut = {dimension: of[: len(rows)] for dimension, of in slices.items()}
        invalid = served.invalid if name == SERVED else None
        systems[name] = quality(gold[: len(rows)], rows, task, slices=cut, invalid=invalid)
        console.advance()
    teacher = predictions.get(TEACHER)
    # What the teacher says is no gold: how well the student copies it is a table of its own.
    copied = quality(teacher, served.rows, task) if teacher else None
    differences: list[NamedDifference] = [
        {"a": "student", "b": name, **paired(gold, served.rows, predictions[name], task)}
        for name in (TEACHER, DICTIONARY) if name in predictions
    ]
    confidence = student_confidence(task, gold, served)
    bench = served.bench.figures if served.bench else None
    traffic = slices.get("traffic")
    evidence = evidence_of(
        task, gold, served, systems[SERVED], confidence, teacher=teacher, traffic=traffic,
        agreement=label_agreement(predictions[MERGED], served.rows),
    )
    checks = [c.to_json() for c in judge(task.gates, evidence)]
    figures = _figures(systems, evidence, bench)
    report: Report = {
        "schema": SCHEMA, "task": task.name,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "bundle": _bundle(pipeline), "verdict": checks + _remarks(differences),
        "confidence": task.eval.confidence, "resamples": task.eval.resamples, "interval": task.eval.interval,
        "people": ceiling(gold, pipeline.inputs.annotations, task) if pipeline.inputs.annotations else None,
        "systems": systems, "served": SERVED, "copied": copied, "differences": differences,
        "teacher_confidence": teacher_confidence(pipeline, gold), "student_confidence": confidence,
        "idle": bench["cold"] if bench else None, "latency": bench["steady"] if bench else None, "bench": bench,
        "cost": _cost(pipeline, served), "forgetting": read_json(pipeline.run / "merge" / "forgetting.json"),
        "forms": _forms(pipeline), "history": _history(pipeline),
        "mistakes": by_kind(gold, served.rows, task, traffic, teacher),
        "errors": _errors(pipeline, gold, predictions, traffic), "training": _resources(pipeline),
        "stages": _stages(pipeline), "versions": versions(), "device": device(), "git": git_commit(),
        "note": task.eval.note, "changes": None,
    }
    before = read_report(pipeline.run / "evaluate" / "report.json")
    if before:
        report["changes"] = changes(before, report)
    write(folder, report, served.bench.samples if served.bench else {})
    return figures | {"checks": checks}


def has_traffic(pipeline: Pipeline) -> bool:
    """Whether the log says how often its queries were asked."""
    return len({q.count for q in pipeline.inputs.teacher.log}) > 1


def _figures(systems: Mapping[str, Quality], evidence: Evidence, bench: LatencyBench | None) -> dict[str, Any]:
    """What the manifest of the stage says, and its headline."""
    def f1(name: str) -> float | None:
        return systems[name]["value"]["f1"]["value"] if name in systems else None

    idle = bench["cold"]["p50_ms"] if bench else None
    out: dict[str, Any] = {
        "served_f1": f1(SERVED), "served_span_f1": systems[SERVED]["span"]["f1"]["value"], "teacher_f1": f1(TEACHER),
        "dictionary_f1": f1(DICTIONARY), "untuned_f1": f1(UNTUNED), "engine_label_agreement": evidence.engine_agreement,
        "student_p50_ms": idle["value"] if idle else None,
    }
    parts = [f"F1 {100 * out['served_f1']:.1f}"]
    parts += [f"{n} {100 * out[f'{n}_f1']:.1f}" for n in ("teacher", "dictionary") if out[f"{n}_f1"] is not None]
    if out["student_p50_ms"] is not None:
        parts.append(f"p50 {out['student_p50_ms']:.0f} ms")
    return out | {"summary": ", ".join(parts)}


def _remarks(differences: Sequence[NamedDifference]) -> list[VerdictLine]:
    """How the student compares with each system; remarks that the gate does not judge."""
    from eval.formatting import p_value, points

    return [{
        "rule": None, "ok": (d["f1"]["high"] or 0.0) >= 0,
        "text": f"ΔF1 against the {d['b']} {points(d['f1'])}, p = {p_value(d['p'])}; minimum detectable effect "
        f"{'–' if d['detectable'] is None else format(100 * d['detectable'], '.1f')} points",
    } for d in differences]


def _cost(pipeline: Pipeline, served: Served) -> CostReport:
    from eval.cost import Measured, cost

    stages = {s["name"]: s for s in _stages(pipeline)}
    manifest = read_json(pipeline.run / "bundle" / "bundle" / "manifest.json")
    head = stages["bundle"]["figures"]["head_queries"]
    cache = pipeline.run / "bundle" / "bundle" / "cache"
    size = sum((cache / name.removeprefix("cache/")).stat().st_size for name in manifest["files"] if "cache/" in name)
    hours = {k: sum(stages[s]["wall_s"] for s in v if s in stages) / 3600
             for k, v in (("label", ("label",)), ("train", ("curriculum", "cross-fit", "train", "merge", "bundle")))}
    log = pipeline.inputs.teacher.log
    return cost(Measured(
        queries=stages["label"]["figures"]["rows"], teacher_money=stages["label"]["figures"]["spent"]["cost"],
        hours=hours, student_rate=served.rate, traffic=[q.count for q in log], cache_bytes=size / head if head else 0.0,
    ), pipeline.task.eval.cost, device(), head)


def _bundle(pipeline: Pipeline) -> BundleId:
    manifest = read_json(pipeline.run / "bundle" / "bundle" / "manifest.json")
    return {"id": manifest["id"], "model": manifest["model_name"], "form": manifest["form"]}


def _forms(pipeline: Pipeline) -> list[FormResult]:
    path = pipeline.run / "forms" / "forms.json"
    return list(read_json(path)["forms"]) if path.exists() else []


def _history(pipeline: Pipeline) -> list[dict[str, Any]]:
    from student.training.history import read_history

    return read_history(pipeline.run / "train" / "curve.jsonl")


def _resources(pipeline: Pipeline) -> list[Resource]:
    path = pipeline.run / "train" / "resources.json"
    return list(read_json(path)) if path.exists() else []


def _errors(
    pipeline: Pipeline, gold: Sequence[Example], predictions: Mapping[str, Sequence[Example]],
    traffic: Sequence[str] | None,
) -> list[WrongAnswer]:
    """Wrong answers of the served student, with what the teacher said and what it was shown."""
    from eval.error_analysis import mistakes
    from task.normalize import normaliser

    normalise = normaliser(pipeline.task.normaliser)
    teacher = predictions.get(TEACHER)
    wrong = [
        (i, kinds) for i, (g, p) in enumerate(zip(gold, predictions[SERVED], strict=True))
        if (kinds := sorted({m.kind for m in mistakes(g, p, normalise)}))
    ][: pipeline.task.eval.errors]
    shown = _shown(pipeline, [gold[i].query for i, _ in wrong])
    return [{
        "query": gold[i].query, "slice": traffic[i] if traffic else "", "kind": ", ".join(kinds),
        "gold": _text(gold[i].labels), "teacher": _text(teacher[i].labels) if teacher else "–",
        "student": _text(predictions[SERVED][i].labels), "evidence": shown.get(gold[i].query, ""),
    } for i, kinds in wrong]


def _shown(pipeline: Pipeline, queries: Sequence[str]) -> dict[str, str]:
    """The evidence that the teacher had for queries, shortened; items by their titles."""
    from teacher.ledger.ledger import Ledger

    path = pipeline.run / "ledger.sqlite"
    if not path.exists():
        return {}
    titles = {x.id: x.title for x in pipeline.inputs.teacher.catalogue}
    with Ledger(path) as ledger:
        return {query: " · ".join(
            f"{kind}: " + "; ".join(titles.get(str(x), str(x)) for x in list(found)[:_EVIDENCE_SHOWN])
            for kind, found in evidence.items() if found and not isinstance(found, str)
        ) for query, evidence in ledger.evidence(queries).items()}


def _text(labels: Sequence[Label]) -> str:
    return " · ".join(f"{x.role}: {x.text}" for x in labels) or "nothing"


def _stages(pipeline: Pipeline) -> list[StageFigures]:
    out: list[StageFigures] = []
    for name in ("sample", "label", "curriculum", "cross-fit", "train", "merge", "bundle"):
        path = pipeline.run / name / "manifest.json"
        if path.exists():
            manifest = read_json(path)
            out.append({"name": name, "wall_s": manifest["wall_s"], "figures": manifest["figures"]})
    return out

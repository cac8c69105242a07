"""The evaluate stage: every system on the same gold rows, the served one through HTTP and under load, and the gate."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.artefacts import EvaluateFolder
from limbeck.environment import device, git_commit, versions
from limbeck.judging.gate_evidence import evidence_of, student_confidence
from limbeck.judging.offline_systems import DICTIONARY, MERGED, TEACHER, UNTUNED, learned, offline, teacher_confidence
from limbeck.judging.served import Served, serve_and_ask
from limbeck.run import Run
from limbeck.stage import Figures, Result, Stage
from task.errors import GateError
from task.files import read_json, sha256_file, write_jsonl
from task.labels import Example, Label

if TYPE_CHECKING:
    from eval.gate import Evidence

SERVED = "student, merged and served"
_EVIDENCE_SHOWN = 4


def stage(before: Sequence[Stage]) -> Stage:
    """The stage.

    Args:
        before: The stages of a run that come before it, in order: the report shows their figures and what they cost.
    """
    return Stage(
        name="evaluate", config=lambda run: run.task.model_dump(mode="json", include={"eval", "gates", "serving"}),
        inputs=_inputs, work=lambda run, folder: _work(run, EvaluateFolder(folder), before),
        headline=lambda f: str(f["summary"]), scratch=frozenset({"serve", "report.html"}),
    )


def note_verdict(run: Run, result: Result) -> None:
    """Note the verdict of an evaluation in the bundle, which may then be released or not.

    An evaluation that was not run again leaves a verdict that is there already: `limbeck gate` may have found more.

    Raises:
        GateError: A rule of the task's `gates` does not hold; the message names each.
    """
    from serving.release.bundle import stamp

    checks, bundle = result.figures["checks"], run.files.bundle
    if not result.skipped or "gate" not in read_json(bundle.manifest):
        stamp(bundle.bundle, checks)
    failed = [c["text"] for c in checks if not c["ok"]]
    if failed:
        raise GateError("the bundle does not pass: " + "; ".join(failed))


def _inputs(run: Run) -> dict[str, str]:
    inputs = {n: run.digest(n) for n in ("label", "train", "merge", "bundle")}
    if run.files.answer_forms.exists():
        inputs["forms"] = sha256_file(run.files.answer_forms)
    return inputs | {"gold": run.inputs.fingerprint("test")}


def _work(run: Run, files: EvaluateFolder, before: Sequence[Stage]) -> Figures:
    """Write predictions, `report.json`, `.html`, `.md` and `.csv` , and return the manifest's figures."""
    from eval.annotator_agreement import ceiling
    from eval.error_analysis import by_kind
    from eval.gate import judge
    from eval.quality import label_agreement, paired, quality
    from eval.report import SCHEMA, write
    from eval.report_changes import changes
    from eval.slices import slices_of

    task, progress = run.task, run.progress
    gold = run.inputs.test[: task.eval.max_rows]
    slices = slices_of(gold, task, log=run.inputs.teacher.log, train=learned(run.files.curriculum))
    predictions = offline(run, gold)
    served = serve_and_ask(run.files.bundle.bundle, files.served, gold, task, progress)
    predictions[SERVED] = served.rows
    for name, rows in predictions.items():
        write_jsonl(files.predictions(name), (r.to_json() for r in rows))
    progress.begin("scoring", len(predictions))
    systems = {}
    for name, rows in predictions.items():
        cut = {dimension: of[: len(rows)] for dimension, of in slices.items()}
        invalid = served.invalid if name == SERVED else None
        systems[name] = quality(gold[: len(rows)], rows, task, cut, invalid)
        progress.advance()
    teacher = predictions.get(TEACHER)
    # What the teacher says is no gold: how well the student copies it is a table of its own.
    copied = quality(teacher, served.rows, task) if teacher else None
    differences = [
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
    said = [c.to_json() for c in judge(task.gates, evidence)]
    figures = _figures(systems, evidence, bench)
    report: dict[str, Any] = {
        "task": task.name, "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "bundle": _bundle(run), "verdict": said + _words(differences),
        "confidence": task.eval.confidence, "resamples": task.eval.resamples, "interval": task.eval.interval,
        "people": ceiling(gold, run.inputs.annotations, task) if run.inputs.annotations else None,
        "systems": systems, "served": SERVED, "copied": copied, "differences": differences,
        "teacher_confidence": teacher_confidence(run, gold), "student_confidence": confidence,
        "idle": bench["cold"] if bench else None, "latency": bench["steady"] if bench else None, "bench": bench,
        "cost": _cost(run, served, before), "forgetting": read_json(run.files.merge.forgetting),
        "forms": _forms(run), "history": _history(run),
        "mistakes": by_kind(gold, served.rows, task, traffic, teacher),
        "errors": _errors(run, gold, predictions, traffic), "training": _resources(run),
        "stages": _stages(run, before), "versions": versions(), "device": device(), "git": git_commit(),
        "note": task.eval.note,
    }
    earlier = run.files.evaluate.report
    last = read_json(earlier) if earlier.exists() else None
    report["changes"] = changes(last, report) if last and last.get("schema") == SCHEMA else None
    write(files.folder, report, served.bench.samples if served.bench else {})
    return figures | {"checks": said}


def _figures(systems: Mapping[str, Any], evidence: Evidence, bench: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the manifest of the stage says, and its headline."""
    def f1(name: str) -> float | None:
        return systems[name]["value"]["f1"]["value"] if name in systems else None

    idle = (bench["cold"]["p50_ms"] or {}) if bench else {}
    out: dict[str, Any] = {
        "served_f1": f1(SERVED), "served_span_f1": systems[SERVED]["span"]["f1"]["value"], "teacher_f1": f1(TEACHER),
        "dictionary_f1": f1(DICTIONARY), "untuned_f1": f1(UNTUNED), "engine_label_agreement": evidence.engine_agreement,
        "student_p50_ms": idle.get("value"),
    }
    parts = [f"F1 {100 * out['served_f1']:.1f}"]
    parts += [f"{n} {100 * out[f'{n}_f1']:.1f}" for n in ("teacher", "dictionary") if out[f"{n}_f1"] is not None]
    if out["student_p50_ms"] is not None:
        parts.append(f"p50 {out['student_p50_ms']:.0f} ms")
    return out | {"summary": ", ".join(parts)}


def _words(differences: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How the student compares, in words; no rule, but what a reader asks first."""
    out = []
    for d in differences:
        high, low, value = d["f1"]["high"], d["f1"]["low"], d["f1"]["value"]
        word = "above" if low > 0 else "below" if high < 0 else "equal within the interval to"
        points = f"{100 * value:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
        out.append({
            "rule": None, "ok": high >= 0, "text": f"the student is {word} the {d['b']}: F1 {points}, "
            f"p = {d['p']:.2g}; these rows would show a difference of {100 * d['detectable']:.1f} points",
        })
    return out


def _cost(run: Run, served: Served, before: Sequence[Stage]) -> dict[str, Any]:
    from eval.cost import Measured, cost

    stages = {s["name"]: s for s in _stages(run, before)}
    manifest = read_json(run.files.bundle.manifest)
    head = stages["bundle"]["figures"]["head_queries"]
    cache = run.files.bundle.bundle / "cache"
    size = sum((cache / name.removeprefix("cache/")).stat().st_size for name in manifest["files"] if "cache/" in name)
    hours = {
        phase: sum(stages[s.name]["wall_s"] for s in before if s.phase == phase and s.name in stages) / 3600
        for phase in ("label", "train")
    }
    log = run.inputs.teacher.log
    return cost(Measured(
        queries=stages["label"]["figures"]["rows"], teacher_money=stages["label"]["figures"]["spent"]["cost"],
        hours=hours, student_rate=served.rate, traffic=[q.count for q in log], cache_bytes=size / head if head else 0.0,
    ), run.task.eval.cost, device(), head) | {"cached": head}


def _bundle(run: Run) -> dict[str, Any]:
    manifest = read_json(run.files.bundle.manifest)
    return {"id": manifest["id"], "model": manifest["model_name"], "form": manifest["form"]}


def _forms(run: Run) -> list[Any]:
    path = run.files.answer_forms
    return list(read_json(path)["forms"]) if path.exists() else []


def _history(run: Run) -> list[dict[str, Any]]:
    from student.training.history import read_history

    return read_history(run.files.train.curve)


def _resources(run: Run) -> list[Any]:
    path = run.files.train.resources
    return list(read_json(path)) if path.exists() else []


def _errors(
    run: Run, gold: Sequence[Example], predictions: Mapping[str, Sequence[Example]],
    traffic: Sequence[str] | None,
) -> list[dict[str, str]]:
    """Wrong answers of the served student, with what the teacher said and what it was shown."""
    from eval.error_analysis import mistakes
    from task.normalize import normaliser

    normalise = normaliser(run.task.normaliser)
    teacher = predictions.get(TEACHER)
    wrong = [
        (i, kinds) for i, (g, p) in enumerate(zip(gold, predictions[SERVED], strict=True))
        if (kinds := sorted({m.kind for m in mistakes(g, p, normalise)}))
    ][: run.task.eval.errors]
    shown = _shown(run, [gold[i].query for i, _ in wrong])
    return [{
        "query": gold[i].query, "slice": traffic[i] if traffic else "", "kind": ", ".join(kinds),
        "gold": _text(gold[i].labels), "teacher": _text(teacher[i].labels) if teacher else "–",
        "student": _text(predictions[SERVED][i].labels), "evidence": shown.get(gold[i].query, ""),
    } for i, kinds in wrong]


def _shown(run: Run, queries: Sequence[str]) -> dict[str, str]:
    """The evidence that the teacher had for queries, shortened; items by their titles."""
    from teacher.ledger.ledger import Ledger

    path = run.files.ledger
    if not path.exists():
        return {}
    titles = {x.id: x.title for x in run.inputs.teacher.catalogue}
    with Ledger(path) as ledger:
        return {query: " · ".join(
            f"{kind}: " + "; ".join(titles.get(str(x), str(x)) for x in list(found)[:_EVIDENCE_SHOWN])
            for kind, found in evidence.items() if found and not isinstance(found, str)
        ) for query, evidence in ledger.evidence(queries).items()}


def _text(labels: Sequence[Label]) -> str:
    return " · ".join(f"{x.role}: {x.text}" for x in labels) or "nothing"


def _stages(run: Run, before: Sequence[Stage]) -> list[dict[str, Any]]:
    out = []
    for stage in before:
        if stage.wanted(run.task):
            manifest = read_json(run.finished(stage.name) / "manifest.json")
            out.append({"name": stage.name, "wall_s": manifest["wall_s"], "figures": manifest["figures"]})
    return out

"""The evaluate stage: every system on the same gold rows, the served one through HTTP, and a latency run."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.stage import device, git_commit, versions
from task.files import read_json, write_jsonl
from task.labels import Example, Label

if TYPE_CHECKING:
    from limbeck.pipeline import Pipeline

SERVED = "student, merged and served"
_IDLE_REQUESTS = 60
_ERRORS_SHOWN = 40


def evaluate(pipeline: Pipeline, folder: Path) -> Mapping[str, Any]:
    """Write predictions, `report.json` and `report.html` into `folder`; returns the figures of the manifest."""
    from eval.mistakes import by_kind
    from eval.quality import label_agreement, paired_difference, quality, traffic_slices
    from eval.report import write

    task, console = pipeline.task, pipeline.console
    gold = pipeline.inputs.test[: task.eval.max_rows]
    slices = traffic_slices(gold, pipeline.inputs.teacher.log, task) if has_traffic(pipeline) else None
    predictions = _offline(pipeline, gold)
    served, latency, idle, samples = _served(pipeline, folder, gold)
    predictions[SERVED] = served
    for name, rows in predictions.items():
        write_jsonl(folder / "predictions" / f"{name.replace(' ', '-').replace(',', '')}.jsonl",
                    (r.to_json() for r in rows))
    console.begin("scoring", len(predictions))
    systems = {}
    for name, rows in predictions.items():
        part = gold[: len(rows)]
        systems[name] = quality(part, rows, task, slices[: len(rows)] if slices else None)
        console.advance()
    merged = predictions["student, merged, in transformers"]
    agreement = label_agreement(merged, served)
    differences = [
        {"a": "student", "b": other, "f1": paired_difference(gold, served, predictions[name], task)}
        for other, name in (("teacher", "teacher"), ("dictionary", "dictionary")) if name in predictions
    ]
    figures = {
        "served_f1": systems[SERVED]["value"]["f1"]["value"],
        "served_span_f1": systems[SERVED]["span"]["f1"]["value"],
        "teacher_f1": systems["teacher"]["value"]["f1"]["value"] if "teacher" in systems else None,
        "dictionary_f1": systems["dictionary"]["value"]["f1"]["value"] if "dictionary" in systems else None,
        "untuned_f1": systems["base, not tuned"]["value"]["f1"]["value"],
        "engine_label_agreement": round(agreement, 6),
        "student_p50_ms": (idle["p50_ms"] or {}).get("value"),
    }
    figures["summary"] = _summary(figures)
    write(folder, {
        "task": task.name, "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "bundle": _bundle(pipeline), "verdict": _verdict(pipeline, figures, differences),
        "confidence": task.eval.confidence, "resamples": task.eval.resamples, "systems": systems, "served": SERVED,
        "differences": differences, "teacher_confidence": _teacher_confidence(pipeline, gold),
        "latency": latency, "idle": idle,
        "forgetting": read_json(pipeline.run / "merge" / "forgetting.json"),
        "forms": _forms(pipeline), "history": _history(pipeline),
        "mistakes": by_kind(gold, served, task, slices, predictions.get("teacher")),
        "errors": _errors(gold, predictions, slices), "training": _resources(pipeline),
        "stages": _stages(pipeline), "versions": versions(),
        "device": device(),
        "git": git_commit(),
    }, samples)
    return figures


def _offline(pipeline: Pipeline, gold: Sequence[Example]) -> dict[str, list[Example]]:
    """Dictionary, teacher, and the student in transformers: untuned, with adapter, merged."""
    from eval.baseline import Dictionary
    from student.adapters import load_adapter
    from student.infer import predict
    from student.model import DTYPES, accelerator, load_base, on_device
    from task.codec import load_codec
    from task.store import fetch
    from task.tokens import load_tokenizer
    from teacher.curriculum import read

    task, console, run = pipeline.task, pipeline.console, pipeline.run
    sources = pipeline.inputs.teacher
    out: dict[str, list[Example]] = {}
    if sources.catalogue:
        out["dictionary"] = Dictionary.from_catalogue(sources.catalogue, task).predict(gold)
    else:
        train = [r.example for r in read(run / "curriculum", "train")]
        out["dictionary"] = Dictionary.from_labels(train, task).predict(gold)
    teacher = teacher_labels(run / "label" / "labels.jsonl", gold) if task.teacher.backend != "labels" else None
    if teacher:
        out["teacher"] = teacher
    codec, base = load_codec(run / "merge"), fetch(task.student.base)
    tokenizer = load_tokenizer(base)
    dtype = DTYPES[task.serving.dtype]
    reference = gold[: task.eval.reference_rows]
    device = accelerator()

    def student(name: str, model: Any, rows: Sequence[Example]) -> None:
        console.begin(name, len(rows))
        out[name] = predict(
            on_device(model, device), codec, tokenizer, task, rows, device=device, progress=console.advance
        )

    student("base, not tuned", load_base(base, dtype), reference)
    trained_on = load_base(base, dtype, task.student)
    student("student with adapter", load_adapter(trained_on, run / "train" / "adapter"), reference)
    student("student, merged, in transformers", load_base(run / "merge" / "model", dtype), gold)
    return out


def teacher_labels(labels: Path, gold: Sequence[Example]) -> list[Example] | None:
    """The ledger's labels of the gold queries; a query that the teacher failed on, or never saw, is empty."""
    from task.io import rows_of

    found = {str(r["query"]): tuple(Label.from_json(x) for x in r["labels"]) for _, r in rows_of(labels)}
    if not any(g.query in found for g in gold):
        return None
    return [Example(g.query, found.get(g.query, ()), g.count, g.id) for g in gold]


def _teacher_confidence(pipeline: Pipeline, gold: Sequence[Example]) -> dict[str, Any] | None:
    """How the teacher's calibrated confidence and its threshold do on gold that neither was fitted on."""
    from eval.confidence import assess
    from task.io import rows_of
    from task.normalize import normaliser
    from teacher.confidence import rightness
    from teacher.records import LedgerRow

    label, options = pipeline.run / "label", pipeline.task.eval
    if not (label / "confidence.json").exists():
        return None
    truth = {g.query: g.labels for g in gold}
    normalise = normaliser(pipeline.task.normaliser)
    confidence, right, groups = [], [], []
    for number, line in rows_of(label / "labels.jsonl"):
        if line["query"] in truth:
            row = LedgerRow.from_json(line)
            confidence += [x.confidence or 0.0 for x in row.labels]
            right += rightness(row, truth[row.query], normalise)
            groups += [number] * len(row.labels)
    if len(set(right)) < 2:
        return None
    return assess(
        confidence, right, groups, threshold=read_json(label / "confidence.json")["threshold"],
        resamples=options.resamples, seed=options.seed, level=options.confidence,
    )


def _served(
    pipeline: Pipeline, folder: Path, gold: Sequence[Example]
) -> tuple[list[Example], dict[str, Any] | None, dict[str, Any], dict[str, list[float]]]:
    """The bundle through its own HTTP service: labels of the gold rows without the cache, then the latency run."""
    from eval.latency import Kind, one_by_one, open_loop, percentiles, schedule, summarise
    from serving.cache import HeadCache
    from serving.run import label_all, served

    task, console = pipeline.task, pipeline.console
    bundle = pipeline.run / "bundle" / "bundle"
    console.begin("starting vLLM and the gateway")
    with served(bundle, folder / "serve") as url:
        console.begin("the served student", len(gold))
        rows = label_all(url, gold, batch=64, done=console.advance)
        misses = [g.query for g in gold]
        idle = asyncio.run(one_by_one(url, misses[:_IDLE_REQUESTS], "miss"))
        plan_ = task.eval.latency
        if not plan_.seconds:
            return rows, None, percentiles(idle), {"miss": idle}
        hits = list(HeadCache(bundle / "cache").queries())
        departures = schedule(plan_.rate, plan_.seconds, plan_.hit_share if hits else 0.0, task.eval.seed)
        console.begin("open-loop load", len(departures))
        pools: dict[Kind, Sequence[str]] = {"hit": hits, "miss": misses[_IDLE_REQUESTS:] or misses}
        samples = asyncio.run(open_loop(url, departures, pools, on_done=console.advance))
    latency = summarise(samples, plan_.rate, plan_.seconds, len(departures))
    raw = {k: [s.latency for s in samples if s.kind == k] for k in ("hit", "miss")}
    return rows, latency, percentiles(idle), {"cache hit": raw["hit"], "student": raw["miss"]}


def has_traffic(pipeline: Pipeline) -> bool:
    """Whether the log says how often its queries were asked."""
    return len({q.count for q in pipeline.inputs.teacher.log}) > 1


def _bundle(pipeline: Pipeline) -> dict[str, Any]:
    manifest = read_json(pipeline.run / "bundle" / "bundle" / "manifest.json")
    return {"id": manifest["id"], "model": manifest["model_name"], "form": manifest["form"]}


def _verdict(
    pipeline: Pipeline, f: Mapping[str, Any], differences: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Each claim with whether it holds."""
    gates = pipeline.task.gates
    agree = f["engine_label_agreement"]
    out = [{
        "ok": agree >= gates.engine_label_agreement,
        "text": f"served = merged on {agree:.2%} of labels (gate {gates.engine_label_agreement:.1%})",
    }]
    if gates.min_f1 is not None:
        text = f"F1 {100 * f['served_f1']:.1f} (gate {100 * gates.min_f1:.1f})"
        out.append({"ok": f["served_f1"] >= gates.min_f1, "text": text})
    for d in differences:
        high, low, value = d["f1"]["high"], d["f1"]["low"], d["f1"]["value"]
        word = "above" if low > 0 else "below" if high < 0 else "equal within the interval to"
        points = f"{100 * value:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
        out.append({"ok": high >= 0, "text": f"the student is {word} the {d['b']}: {points}"})
    return out


def _forms(pipeline: Pipeline) -> list[Any]:
    path = pipeline.run / "forms" / "forms.json"
    return list(read_json(path)["forms"]) if path.exists() else []


def _history(pipeline: Pipeline) -> list[dict[str, Any]]:
    from student.history import read_history

    return read_history(pipeline.run / "train" / "curve.jsonl")


def _resources(pipeline: Pipeline) -> list[Any]:
    path = pipeline.run / "train" / "resources.json"
    return list(read_json(path)) if path.exists() else []


def _errors(
    gold: Sequence[Example], predictions: Mapping[str, Sequence[Example]], slices: Sequence[str] | None
) -> list[dict[str, str]]:
    """The first wrong answers of the served student, with what the teacher said."""
    teacher = predictions.get("teacher")
    out = []
    for i, (g, p) in enumerate(zip(gold, predictions[SERVED], strict=True)):
        if {x.key for x in g.labels} != {x.key for x in p.labels}:
            out.append({
                "query": g.query, "slice": slices[i] if slices else "", "gold": _text(g.labels),
                "teacher": _text(teacher[i].labels) if teacher else "–", "student": _text(p.labels),
            })
        if len(out) == _ERRORS_SHOWN:
            break
    return out


def _text(labels: Sequence[Label]) -> str:
    return " · ".join(f"{x.role}: {x.text}" for x in labels) or "nothing"


def _stages(pipeline: Pipeline) -> list[dict[str, Any]]:
    out = []
    for name in ("sample", "label", "curriculum", "train", "merge", "bundle"):
        path = pipeline.run / name / "manifest.json"
        if path.exists():
            manifest = read_json(path)
            out.append({"name": name, "wall_s": manifest["wall_s"], "figures": manifest["figures"]})
    return out


def _summary(f: Mapping[str, Any]) -> str:
    parts = [f"F1 {100 * f['served_f1']:.1f}"]
    if f["teacher_f1"] is not None:
        parts.append(f"teacher {100 * f['teacher_f1']:.1f}")
    if f["dictionary_f1"] is not None:
        parts.append(f"dictionary {100 * f['dictionary_f1']:.1f}")
    if f["student_p50_ms"] is not None:
        parts.append(f"p50 {f['student_p50_ms']:.0f} ms")
    return ", ".join(parts)

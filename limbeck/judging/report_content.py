"""The parts of the report that are read from the run folder: cost, errors, training, stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.judging.offline_systems import TEACHER
from limbeck.judging.served import SERVED, Served
from limbeck.stage import device
from task.files import read_json
from task.labels import Example, Label

if TYPE_CHECKING:
    from eval.quality_schema import NamedDifference
    from eval.report_schema import (
        BundleId,
        CostReport,
        FormResult,
        Resource,
        StageFigures,
        VerdictLine,
        WrongAnswer,
    )
    from limbeck.pipeline import Pipeline

_EVIDENCE_SHOWN = 4  # items of each kind of retrieved context


def remarks(differences: Sequence[NamedDifference]) -> list[VerdictLine]:
    """How the student compares with each system; remarks that the gate does not judge."""
    from eval.formatting import p_value, points

    return [{
        "rule": None, "ok": (d["f1"]["high"] or 0.0) >= 0,
        "text": f"ΔF1 against the {d['b']} {points(d['f1'])}, p = {p_value(d['p'])}; minimum detectable effect "
        f"{'–' if d['detectable'] is None else format(100 * d['detectable'], '.1f')} points",
    } for d in differences]


def run_cost(pipeline: Pipeline, served: Served) -> CostReport:
    """The cost of the run, from its manifests, the log and the measured throughput."""
    from eval.cost import Measured, cost

    stages = {s["name"]: s for s in stage_figures(pipeline)}
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


def bundle_id(pipeline: Pipeline) -> BundleId:
    """Which bundle was judged."""
    manifest = read_json(pipeline.run / "bundle" / "bundle" / "manifest.json")
    return {"id": manifest["id"], "model": manifest["model_name"], "form": manifest["form"]}


def form_results(pipeline: Pipeline) -> list[FormResult]:
    """The comparison of answer forms; empty where it was not run."""
    path = pipeline.run / "forms" / "forms.json"
    return list(read_json(path)["forms"]) if path.exists() else []


def training_history(pipeline: Pipeline) -> list[dict[str, Any]]:
    """The learning curve."""
    from student.training.history import read_history

    return read_history(pipeline.run / "train" / "curve.jsonl")


def training_resources(pipeline: Pipeline) -> list[Resource]:
    """Planned and measured resources of the training; empty where no plan was possible."""
    path = pipeline.run / "train" / "resources.json"
    return list(read_json(path)) if path.exists() else []


def wrong_answers(
    pipeline: Pipeline, gold: Sequence[Example], predictions: Mapping[str, Sequence[Example]],
    traffic: Sequence[str] | None,
) -> list[WrongAnswer]:
    """The first wrong answers of the served student, with the teacher's labels and its retrieved context."""
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
    """The teacher's retrieved context of queries, shortened; items by their titles."""
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


def stage_figures(pipeline: Pipeline) -> list[StageFigures]:
    """The stages before this one."""
    out: list[StageFigures] = []
    for name in ("sample", "label", "curriculum", "cross-fit", "train", "merge", "bundle"):
        path = pipeline.run / name / "manifest.json"
        if path.exists():
            manifest = read_json(path)
            out.append({"name": name, "wall_s": manifest["wall_s"], "figures": manifest["figures"]})
    return out

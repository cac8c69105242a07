"""The parts of the report that are read from the run folder: cost, errors, training, stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from limbeck.environment import device
from limbeck.judging.offline_systems import TEACHER, answered, teacher_labels
from limbeck.judging.served import SERVED, Served
from task.files import read_json
from task.labels import Example, Label

if TYPE_CHECKING:
    from eval.decisions_schema import Decisions
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
    from limbeck.run import Run
    from limbeck.stage import Stage


def remarks(differences: Sequence[NamedDifference]) -> list[VerdictLine]:
    """How the student compares with each system; remarks that the gate does not judge."""
    from eval.formatting import p_value, points

    return [{
        "rule": None, "ok": (d["f1"]["high"] or 0.0) >= 0,
        "text": f"ΔF1 against the {d['b']} {points(d['f1'])}, p = {p_value(d['p'])}; minimum detectable effect "
        f"{'–' if d['detectable'] is None else format(100 * d['detectable'], '.1f')} points",
    } for d in differences]


def teacher_remarks(run: Run, gold: Sequence[Example]) -> list[VerdictLine]:
    """Why the student is not compared with the teacher, or on how many rows the teacher has no answer."""
    if run.task.teacher.backend == "labels":
        text = (
            "not compared with a teacher: the labels were imported (teacher.backend: labels). Set gates.min_f1 to "
            "what the student must reach, or give limbeck gate the teacher's answers to the gold queries (--teacher)"
        )
        return [{"rule": None, "ok": False, "text": text}]
    rows = len({g.query for g in gold})
    without = rows - len(answered(run.files.label, gold))
    if not without:
        return []
    compared = teacher_labels(run.files.label, gold) is not None
    text = f"the teacher has no answer to {without:,} of {rows:,} gold queries"
    end = "it is compared on the others" if compared else "too many for a comparison with it"
    return [{"rule": None, "ok": False, "text": f"{text}: {end}"}]


def run_cost(run: Run, served: Served, before: Sequence[Stage]) -> CostReport:
    """The cost of the run, from the manifests of the stages before, the log and the measured throughput."""
    from eval.cost import Measured, cost

    stages = {s["name"]: s for s in stage_figures(run, before)}
    manifest = read_json(run.files.bundle.manifest)
    head = stages["bundle"]["figures"]["head_queries"]
    cache = run.files.bundle.bundle / "cache"
    size = sum((cache / name.removeprefix("cache/")).stat().st_size for name in manifest["files"] if "cache/" in name)
    hours = {
        phase: sum(stages[s.name]["wall_s"] for s in before if s.phase == phase and s.name in stages) / 3600
        for phase in ("label", "train")
    }
    log, label = run.inputs.teacher.log, stages["label"]["figures"]
    return cost(Measured(
        queries=label["rows"], teacher_money=label["spent"]["cost"], teacher_each=label.get("cost_of_a_query"),
        hours=hours, student_rate=served.rate, traffic=[q.count for q in log], cache_bytes=size / head if head else 0.0,
        imported=run.task.teacher.backend == "labels",
    ), run.task.eval.cost, device(), head)


def bundle_id(run: Run) -> BundleId:
    """Which bundle was judged."""
    manifest = read_json(run.files.bundle.manifest)
    return {"id": manifest["id"], "model": manifest["model_name"], "form": manifest["form"]}


def form_results(run: Run) -> list[FormResult]:
    """The comparison of answer forms; empty where it was not run."""
    path = run.files.answer_forms
    return list(read_json(path)["forms"]) if path.exists() else []


def decisions(run: Run) -> Decisions | None:
    """What people decided about the labels that the student learned from; None where nobody did."""
    figures = read_json(run.finished("curriculum") / "manifest.json")["figures"].get("decisions")
    if figures is None:
        return None
    def shown(labels: Sequence[Mapping[str, Any]]) -> str:
        return _text([Label.from_json(x) for x in labels])

    examples = [{**x, "before": shown(x["before"]), "now": shown(x["now"])} for x in figures["examples"]]
    return cast("Decisions", {**figures, "examples": examples})


def training_history(run: Run) -> list[dict[str, Any]]:
    """The learning curve."""
    from student.training.history import read_history

    return read_history(run.files.train.curve)


def training_resources(run: Run) -> list[Resource]:
    """Planned and measured resources of the training; empty where no plan was possible."""
    path = run.files.train.resources
    return list(read_json(path)) if path.exists() else []


def wrong_answers(
    run: Run, gold: Sequence[Example], predictions: Mapping[str, Sequence[Example]],
    traffic: Sequence[str] | None,
) -> list[WrongAnswer]:
    """The first wrong answers of the served student, with the teacher's labels and its retrieved context."""
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
    """The teacher's retrieved context of queries; none without a ledger."""
    from teacher.label_sample import shown_context
    from teacher.ledger.ledger import Ledger

    path = run.files.ledger
    if not path.exists():
        return {}
    with Ledger(path) as ledger:
        return shown_context(ledger, run.inputs.teacher.catalogue, queries)


def _text(labels: Sequence[Label]) -> str:
    return " · ".join(f"{x.role}: {x.text}" for x in labels) or "nothing"


def stage_figures(run: Run, before: Sequence[Stage]) -> list[StageFigures]:
    """Time and figures of the stages that have been run before the evaluation."""
    out: list[StageFigures] = []
    for stage in before:
        if stage.wanted(run.task):
            manifest = read_json(run.finished(stage.name) / "manifest.json")
            out.append({"name": stage.name, "wall_s": manifest["wall_s"], "figures": manifest["figures"]})
    return out

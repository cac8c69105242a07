"""`label`: queries, catalogue and conversions → ledger and labels."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from limbeck.artefacts import LabelFolder
from limbeck.run import Run
from limbeck.stage import Figures, Stage
from task.files import sha256_file, write_json, write_jsonl
from teacher.backends.job import LabellingPlan


def plan(run: Run) -> LabellingPlan:
    """What the stage would ask the LLM, validate again at no cost, and leave unchanged; makes no call."""
    from task.model_store import fetch
    from teacher.label import plan_labelling
    from teacher.ledger.ledger import Ledger

    with Ledger(run.files.ledger) as ledger:
        return plan_labelling(run.task, run.inputs.teacher, ledger, run.files.index, fetch, run.progress)


def _config(run: Run) -> object:
    return run.task.model_dump(
        mode="json", include={"instructions", "roles", "examples", "normaliser", "teacher"}
    ) | run.task.data.model_dump(mode="json", include={"max_query_chars", "conflicts"})


def _inputs(run: Run) -> dict[str, str]:
    from teacher.backends.backend import backend_of

    inputs = {"data": run.inputs.fingerprint("queries", "labels", "catalogue", "conversions", "calibration")}
    prompt = run.task.teacher.openai.prompt
    if backend_of(run.task).asks_llm and prompt is not None and Path(prompt).exists():
        inputs |= {"prompt": sha256_file(Path(prompt)), "held_out": run.inputs.fingerprint("test")}
    return inputs


def _work(run: Run, folder: Path) -> Figures:
    from eval.report import write_labels
    from task.model_store import fetch
    from teacher.label import label_queries
    from teacher.ledger.ledger import Ledger
    from teacher.ledger.records import STATUSES

    task, files = run.task, LabelFolder(folder)
    with Ledger(run.files.ledger) as ledger:
        done = label_queries(task, run.inputs.teacher, ledger, run.files.index, fetch, run.progress)
        rows = write_jsonl(files.labels, (r.to_json() for r in done.rows))
    write_json(files.verdicts, done.verdicts)
    confidence = None if done.calibration is None else done.calibration.to_json()
    if confidence is not None:
        write_json(files.confidence, confidence)
    statuses: dict[str, Any] = {s: done.statuses.get(s, 0) for s in STATUSES}
    write_labels(folder, {
        "task": task.name, "backend": task.teacher.backend, "rows": rows, "statuses": statuses,
        "spent": done.spent, "confidence": confidence, "verdicts": done.verdicts, "level": task.eval.confidence,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    })
    threshold = None if done.calibration is None else done.calibration.threshold
    return {"rows": rows, **statuses, "spent": dict(done.spent), "threshold": threshold}


STAGE = Stage(
    name="label", config=_config, inputs=_inputs, work=_work, scratch=frozenset({"report.html"}), phase="label",
    headline=lambda f: f"{f['accepted']:,} of {f['rows']:,} queries accepted, {f['spent']['cost']:.2f} spent",
)

"""`curriculum`: labels → training and development rows."""

from __future__ import annotations

from pathlib import Path

from limbeck.run import Run
from limbeck.stage import Figures, Stage
from limbeck.staleness import Rules
from task.errors import InputError
from task.files import read_json
from teacher.ledger.reviews import changes, digest

_SHOWN = 20  # corrections that the report shows


def _config(run: Run) -> object:
    """Cross-fitting is a stage of its own: its settings do not change this one."""
    dumped = run.task.model_dump(mode="json", include={"normaliser": True, "curriculum": True})
    return dumped | {"curriculum": run.task.curriculum.model_dump(mode="json", exclude={"cross_fit"})}


def _inputs(run: Run) -> dict[str, str]:
    outliers = {"outliers": run.inputs.fingerprint("outliers")} if run.inputs.source("outliers") else {}
    decided = {"decisions of people": digest(run.inputs.verdicts.values())} if run.inputs.verdicts else {}
    return {"labels": run.digest("label"), "gold": run.inputs.fingerprint("calibration", "test"), **outliers, **decided}


def _rules(_run: Run) -> Rules:
    from task import READERS
    from teacher import curriculum

    return {"curriculum": curriculum.VERSION, "readers": READERS}


def _work(run: Run, folder: Path) -> Figures:
    from task.table_files import rows_of
    from teacher.curriculum.build import build
    from teacher.curriculum.rows import write
    from teacher.ledger.records import LedgerRow

    run.finished("label")
    labels = run.files.label.labels
    rows = [LedgerRow.from_json(r) for _, r in rows_of(labels)]
    gold = [*run.inputs.test, *run.inputs.teacher.calibration]
    verdicts = run.inputs.verdicts
    made = build(run.task, rows, gold, _threshold(run), run.inputs.outliers, verdicts)
    if not made.train:
        raise InputError(
            "no labelling was accepted: there is nothing to learn from", file=labels, found=made.left_out,
            fix="Lower curriculum.min_confidence, or look at verdicts.json beside the labels",
        )
    if not any(r.example.labels for r in made.train):
        raise InputError(
            "no row has a label: there is nothing to learn from", file=labels,
            found=f"{len(made.train):,} rows without labels", expected="labels in some of the rows",
            fix="Look at verdicts.json beside the labels: it counts what was rejected and why",
        )
    write(made, run.task, folder)
    decisions = {"decisions": _decisions(run)} if verdicts else {}
    return {"train": len(made.train), "dev": len(made.dev), "left_out": made.left_out, **decisions}


def _decisions(run: Run) -> Figures:
    """What people decided, in figures: for the report.

    `gold_rows` counts those that correct gold rows, or came of audits.
    """
    verdicts = run.inputs.verdicts
    known = {x.query for x in (*run.inputs.test, *run.inputs.calibration)}
    learned = [v for v in verdicts.values() if not v.gold and v.query not in known]
    shown = sorted((v for v in learned if v.changed), key=lambda v: (-v.count, v.query))[:_SHOWN]
    return {
        "people": sorted({p for v in verdicts.values() for p in v.people}), "queries": len(verdicts),
        "confirmed": sum(v.outcome == "labels" and not v.changed for v in learned),
        "corrected": sum(v.changed for v in learned),
        "rejected": sum(v.outcome == "rejected" for v in learned),
        "disputed": sum(v.outcome == "disputed" for v in verdicts.values()),
        "gold_rows": len(verdicts) - len(learned),
        "roles": changes(learned),
        "examples": [
            {"query": v.query, "before": [x.to_json() for x in v.before], "now": [x.to_json() for x in v.labels]}
            for v in shown
        ],
    }


def _threshold(run: Run) -> float:
    """The confidence below which a label of the teacher is doubtful."""
    path = run.files.label.confidence
    found = read_json(path)["threshold"] if path.exists() else run.task.teacher.confidence.threshold
    return float(found or 0.0)


def _headline(figures: Figures) -> str:
    left = figures.get("left_out", {})
    reasons = ", ".join(f"{n:,} {why}" for why, n in sorted(left.items(), key=lambda x: -x[1]))
    out = f"; {sum(left.values()):,} left out: {reasons}" if left else ""
    return f"{figures['train']:,} train and {figures['dev']:,} dev rows{out}"


STAGE = Stage(
    name="curriculum", config=_config, inputs=_inputs, rules=_rules, work=_work, phase="train",
    headline=_headline,
)

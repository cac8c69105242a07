"""`label`: queries, catalogue and conversions → ledger and labels."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.artefacts import LabelFolder
from limbeck.run import Run, Shortfall
from limbeck.stage import Figures, Stage
from limbeck.staleness import NO_EFFECT, Rules
from task.errors import warn
from task.files import sha256_file, sha256_json, write_json, write_jsonl
from task.settings import OpenAI
from teacher.backends.job import LabellingPlan

if TYPE_CHECKING:
    from teacher.guardrails.confidence import Obstacle
    from teacher.label import Labelled
    from teacher.ledger.ledger import Ledger

# With fewer answers the run ends: a student of half of the labels would be trained again with the others.
_TOO_MANY = 0.5


def plan(run: Run) -> LabellingPlan:
    """What the stage would ask the LLM, validate again at no cost, and leave unchanged; makes no call."""
    from task.model_store import fetch
    from teacher.label import plan_labelling
    from teacher.ledger.ledger import Ledger

    with Ledger(run.files.ledger) as ledger:
        return plan_labelling(run.task, run.inputs.teacher, ledger, run.files.index, fetch, run.progress)


def settings(run: Run) -> dict[str, Any]:
    """What the teacher's answers depend on; with an LLM also what else of the task its template reads."""
    from llm_client.prompt import task_fields
    from teacher.backends.backend import backend_of

    include = {"instructions", "roles", "examples", "normaliser", "teacher"}
    if backend_of(run.task).asks_llm and (prompt := run.task.teacher.openai.prompt) is not None:
        include |= task_fields(Path(prompt))
    return run.task.model_dump(mode="json", include=include, exclude={"teacher": NO_EFFECT["teacher"]})


def _config(run: Run) -> object:
    included = settings(run)
    return included | run.task.data.model_dump(mode="json", include={"max_query_chars", "conflicts"})


def _rules(run: Run) -> Rules:
    from task import READERS
    from teacher.backends.backend import backend_of
    from teacher.guardrails import confidence, label_checks

    backend = backend_of(run.task)
    own = {"readers": READERS, "guardrails": label_checks.VERSION}
    return {**own, **({"confidence": confidence.VERSION} if backend.estimates_confidence else {}),
            **backend.rules(run.task)}


def _inputs(run: Run) -> dict[str, str]:
    from teacher.backends.backend import backend_of

    inputs = {"data": run.inputs.fingerprint("queries", "labels", "catalogue", "conversions", "calibration")}
    prompt = run.task.teacher.openai.prompt
    if backend_of(run.task).asks_llm and prompt is not None and Path(prompt).exists():
        inputs |= {"prompt": sha256_file(Path(prompt)), "held_out": run.inputs.fingerprint("test")}
    model = Path(run.task.teacher.vllm.model)
    if run.task.teacher.backend == "vllm" and model.is_dir():
        from teacher.backends.llm.local_model import model_mark

        inputs["teacher model"] = model_mark(model)
    return inputs


def _work(run: Run, folder: Path) -> Figures:
    from eval.report import write_labels
    from task.model_store import fetch
    from teacher.backends.backend import backend_of
    from teacher.label import label_queries
    from teacher.label_sample import sample
    from teacher.ledger.ledger import Ledger
    from teacher.ledger.measured_tokens import pass_cost
    from teacher.ledger.records import STATUSES

    task, files = run.task, LabelFolder(folder)
    with Ledger(run.files.ledger) as ledger:
        done = label_queries(task, run.inputs.teacher, ledger, run.files.index, fetch, run.progress)
        rows = write_jsonl(files.labels, (r.to_json() for r in done.rows))
        _say_unverified(task.teacher.openai, ledger, {r.query for r in done.rows})
        once = pass_cost(ledger, _purposes(task.teacher.openai)) if backend_of(task).asks_llm else None
        shown = sample(done.rows, [r.name for r in task.roles], ledger, run.inputs.teacher.catalogue)
        files.compared.unlink(missing_ok=True)
        if (compared := [r.to_json() for r in done.compared]):
            write_jsonl(files.compared, compared)
    write_json(files.verdicts, done.verdicts)
    confidence = None if done.calibration is None else done.calibration.to_json()
    files.confidence.unlink(missing_ok=True)  # of an attempt before, with fewer answers
    uncalibrated = "" if confidence else _why_uncalibrated(run, done.obstacle)
    if confidence is not None:
        write_json(files.confidence, confidence)
    statuses: dict[str, Any] = {s: done.statuses.get(s, 0) for s in STATUSES}
    write_labels(folder, {
        "task": task.name, "backend": task.teacher.backend, "rows": rows, "statuses": statuses,
        "spent": done.spent, "confidence": confidence,
        "uncalibrated": uncalibrated,
        "verdicts": done.verdicts, "sample": shown,
        "level": task.eval.confidence,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    })
    _say_uncalibrated(run, done)
    missing = {k: getattr(done.missing, k) for k in ("of", "unanswered", "unusable", "signals", "cause")}
    threshold = None if done.calibration is None else done.calibration.threshold
    return {
        "rows": rows, **statuses, "spent": dict(done.spent), "cost_of_a_query": once, "threshold": threshold,
        "uncalibrated": uncalibrated, "missing": missing, "compared": _gold(run),
    }


def _why_uncalibrated(run: Run, found: Obstacle | None) -> str:
    """The reason that page, terminal and plan give where confidences were not calibrated."""
    from teacher.backends.backend import backend_of

    rows, least = _calibration_queries(run), run.task.teacher.confidence.min_rows
    if not backend_of(run.task).estimates_confidence:
        return "imported labels come without signals that tell right ones from wrong ones"
    if rows < least:
        return f"{rows:,} gold calibration queries, and teacher.confidence.min_rows is {least:,}"
    return "" if found is None else found.why


def _calibration_queries(run: Run) -> int:
    return len({e.query for e in run.inputs.teacher.calibration})


def _say_uncalibrated(run: Run, done: Labelled) -> None:
    """Say that calibration rows, which may have been paid for, tell nothing about the labels."""
    from teacher.backends.backend import backend_of

    settings = run.task.teacher.confidence
    if done.calibration is None:
        if done.obstacle is not None and _calibration_queries(run) >= settings.min_rows:
            helps = backend_of(run.task).estimates_confidence  # more gold does not, where there are no signals
            warn(
                f"confidences are not calibrated: {_why_uncalibrated(run, done.obstacle)}; no label is marked as "
                "uncertain", field="data.gold.calibration", fix=done.obstacle.fix if helps else None,
            )
    elif done.calibration.threshold is None:
        warn(
            f"no threshold of the confidence reaches a precision of {settings.target_precision:.1%} on the calibration "
            "queries, so no label is marked as uncertain, however low its confidence",
            field="teacher.confidence.target_precision",
            fix="Add calibration queries, lower it, or set curriculum.min_confidence",
        )


def _say_unverified(s: OpenAI, ledger: Ledger, queries: Collection[str]) -> None:
    from teacher.ledger.missing_answers import unreadable_verifications

    if s.verify and (number := unreadable_verifications(ledger, queries)):
        warn(
            f"the verification of {number:,} of {len(queries):,} queries could not be read twice; it is not asked for "
            "again, and their confidence is without it", field="teacher.openai.verify", expected='{"right": [true, …]}',
            fix="`limbeck ledger TASK --query QUERY` shows an answer. Set teacher.openai.structured_output: true, "
            "choose another model, or leave verify out, so that it is not paid for",
        )


def _purposes(s: OpenAI) -> list[str]:
    """Of the requests that label a query with these settings."""
    extra = {"samples": s.samples > 0, "bare": s.compare_bare, "verify": s.verify}
    return ["label", *(purpose for purpose, wanted in extra.items() if wanted)]


def missing(run: Run, figures: Figures) -> Shortfall | None:
    """Queries of which a request got no usable answer: the stage asks these again, and no others.

    A query whose answer could not be read is asked again but is no failure of the command: its answer would probably
    be the same. Figures of before these were counted have the number of failed rows only.

    Gold test queries that the teacher has not labelled are missing too: the gold is another, or the run is of before
    they were labelled. A stage that depends on nothing else of them stays as it is.
    """
    if new := _not_compared(run, figures):
        return Shortfall(text=f"{new:,} gold test queries were not given to the teacher yet")
    found = figures.get("missing") or {"unanswered": figures["failed"], "unusable": 0, "signals": 0, "cause": None}
    unanswered, unusable, signals = found["unanswered"], found["unusable"], found["signals"]
    if not unanswered + unusable + signals:
        return None
    asked = found.get("of", figures["rows"] - figures["skipped"])
    parts = [f"{n:,} of {asked:,} queries {what}" for n, what in (
        (unanswered, "have no answer"), (unusable, "have an answer that cannot be read"),
        (signals, "lack a sample or verification"),
    ) if n]
    cause = f" (most often: {found['cause']})" if found["cause"] else ""
    without = unanswered + unusable
    return Shortfall(text=", ".join(parts) + cause, fails=unanswered > 0, stops=without > asked * _TOO_MANY)


def _gold(run: Run) -> str:
    """What decides which gold test queries the teacher labels."""
    return sha256_json([run.inputs.fingerprint("test"), run.task.eval.max_rows])


def _not_compared(run: Run, figures: Figures) -> int:
    """Number of gold test queries that the finished stage has no row of, though its backend could label them."""
    from task.table_files import rows_of
    from teacher.backends.backend import backend_of

    if figures.get("compared") == _gold(run) or not backend_of(run.task).answers_any_query:
        return 0
    files = run.files.label
    known = {str(r["query"]) for f in (files.labels, files.compared) if f.exists() for _, r in rows_of(f)}
    return len({e.query for e in run.inputs.judged} - known)


def _headline(figures: Figures) -> str:
    others = "".join(f", {figures[s]:,} {s}" for s in ("partial", "uncertain", "failed", "skipped") if figures.get(s))
    accepted = f"{figures['accepted']:,} of {figures['rows']:,} queries accepted"
    return f"{accepted}{others}; {figures['spent']['cost']:.2f} spent"


STAGE = Stage(
    name="label", config=_config, inputs=_inputs, rules=_rules, missing=missing, work=_work,
    scratch=frozenset({"report.html", "gold-test.jsonl"}), phase="label",
    headline=_headline,
)

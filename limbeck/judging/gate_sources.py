"""What a gate compares with: the teacher's labels and the traffic of the gold queries, from files or from the run.

Both are found before a service is started, so that a missing file is said at once and not after minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.artefacts import Folder, LabelFolder, run_of_bundle
from limbeck.judging.offline_systems import MERGED, answered, teacher_labels, teachers_rows
from task.errors import InputError
from task.files import read_json
from task.labels import Example
from task.spec import Task


@dataclass(frozen=True, slots=True)
class Sources:
    """Labels of the gold queries by the teacher, and `head`, `torso` or `tail` of each; None where no rule asks.

    Attributes:
        rows: The gold rows that the teacher is compared on.
    """

    teacher: list[Example] | None
    rows: list[int]
    traffic: list[str] | None


def sources_of(
    bundle: Path, task: Task, gold: Sequence[Example], *, teacher_file: Path | None, log_file: Path | None
) -> Sources:
    """What the rules of the task's gates need, from the files given or else from the run that the bundle is of.

    Args:
        bundle: Its folder; in a run folder, `label/` beside it has the teacher's labels and the counts of the log.

    Raises:
        InputError: A rule of `gates` needs what neither has; the message names the option.
    """
    from eval.prediction_files import read_predictions
    from eval.slices import traffic
    from task.readers import read_queries
    from teacher.backends.backend import backend_of

    label = _label_stage(bundle)
    gates = task.gates
    wanted = [n for n in ("teacher_margin", "slice_margin") if getattr(gates, n) is not None]
    labels = None if label is None else label.labels
    teacher, rows = None, list[int]()
    if teacher_file:
        found = {p.row.query: p.row for p in read_predictions(teacher_file, task)}
        teacher, rows = [found.get(g.query, Example(g.query)) for g in gold], teachers_rows(found.keys(), gold)
    elif label is not None and (wanted or backend_of(task).answers_any_query) and (
        teacher := teacher_labels(label, gold)
    ) is not None:
        rows = teachers_rows(answered(label, gold), gold)
    log = read_queries(log_file) if log_file else _counted(labels)
    slices = traffic(gold, log, task) if log is not None else None
    if wanted and teacher is None:
        raise _missing(
            "--teacher", wanted, "a file with the teacher's labels of the gold queries",
            "the bundle lies in no run folder" if label is None
            else f"fewer than half of the gold queries have labels in {label.folder}",
        )
    if gates.slice_margin is not None and slices is None:
        raise _missing(
            "--log", ["slice_margin"], "the query log with its counts",
            "the bundle lies in no run folder" if labels is None else f"all queries of {labels} have one count",
        )
    return Sources(teacher, rows, slices)


def merged_answers(bundle: Path, gold: Sequence[Example]) -> list[Example] | None:
    """What the merged model answered on the gold queries when the run evaluated this bundle.

    None where the bundle lies in no run folder, where the last evaluation was of another one, or of other gold queries.
    """
    from task.table_files import rows_of

    run = run_of_bundle(bundle)
    if run is None or not run.evaluate.predictions(MERGED).exists():
        return None
    if not (run.evaluate.folder / "manifest.json").exists():
        return None
    if _manifest(run.evaluate)["inputs"].get("bundle") != _manifest(run.bundle)["digest"]:
        return None
    found = {row["query"]: Example.from_json(row) for _, row in rows_of(run.evaluate.predictions(MERGED))}
    return [found[g.query] for g in gold] if all(g.query in found for g in gold) else None


def _missing(option: str, rules: Sequence[str], expected: str, why: str) -> InputError:
    off = " ".join(f"--set gates.{r}=null" for r in rules)
    return InputError(
        f"needed for gates.{' and gates.'.join(rules)}, and {why}", field=option, expected=expected,
        fix=f"Give {option} FILE, or leave the rule out with {off}",
    )


def _label_stage(bundle: Path) -> LabelFolder | None:
    """The label stage of the run that a bundle was made by; None if it lies elsewhere, or is of other labels."""
    run = run_of_bundle(bundle)
    if run is None or not run.label.labels.exists() or not (run.label.folder / "manifest.json").exists():
        return None
    return run.label if _manifest(run.bundle)["inputs"].get("labels") == _manifest(run.label)["digest"] else None


def _manifest(stage: Folder) -> dict[str, Any]:
    """The manifest of a finished stage."""
    found: dict[str, Any] = read_json(stage.folder / "manifest.json")
    return found


def _counted(labels: Path | None) -> list[Example] | None:
    """The queries of a log with their counts; None if all have the same."""
    from task.table_files import rows_of

    if labels is None:
        return None
    log = [Example(str(r["query"]), (), int(r["count"])) for _, r in rows_of(labels)]
    return log if len({q.count for q in log}) > 1 else None

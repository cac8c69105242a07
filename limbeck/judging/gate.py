"""`limbeck gate`: serve a bundle, and the released one beside it, and judge it by its task's gates."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.judging.gate_evidence import agreement_on, evidence_of, student_confidence
from limbeck.judging.served import UNCHECKED, Served, ask
from task.errors import InputError
from task.labels import Example
from task.progress import Progress

if TYPE_CHECKING:
    from eval.gate import Check
    from serving.release.bundle import Bundle
    from task.spec import Task

_WARM_UP, _BATCH = 20, 64


def gate(
    folder: Path, gold_file: Path, progress: Progress, *, overrides: Sequence[str] = (),
    teacher_file: Path | None = None, log_file: Path | None = None, released_from: Path | None = None,
    pairs: int = 300,
) -> list[Check]:
    """Judge a bundle and record the verdict in its manifest.

    Args:
        overrides: `gates.NAME=VALUE` and `eval.NAME=VALUE`, replacing the bundle's own values.
        teacher_file: The teacher's labels of the gold queries.
        log_file: The query log, for slices by traffic.
        released_from: The bundle that is released now, or a pointer to it.
        pairs: Number of queries that both bundles answer alternately, for `gates.max_slower`.

    Raises:
        InputError: The bundle is damaged, or a file is malformed.
    """
    from eval.gate import judge
    from eval.quality import quality
    from eval.slices import traffic as by_traffic
    from serving.release.bundle import open_bundle, stamp
    from task.load import override_judging
    from task.readers import read_labels, read_queries

    bundle = open_bundle(folder)
    task = override_judging(bundle.task, overrides)
    gold = read_labels(gold_file, task)
    teacher = _of_gold(teacher_file, gold, task) if teacher_file else None
    slices = by_traffic(gold, read_queries(log_file), task) if log_file else None
    other = _released(released_from, bundle)
    reference = bundle.reference()
    served, said, before, slower = _measured(
        bundle, other, gold=gold, reference=reference, task=task, pairs=pairs, progress=progress
    )
    agreement = agreement_on(reference, said) if reference else _engine_agreement(bundle)
    found = quality(gold, served.rows, task, invalid=served.invalid)
    checks = judge(task.gates, evidence_of(
        task, gold, served, found, student_confidence(task, gold, served), teacher=teacher, traffic=slices,
        agreement=agreement, released=before, slower=slower, constrained=bundle.codec.answer_form.constrained,
    ))
    stamp(bundle.folder, [c.to_json() for c in checks])
    return checks


def _measured(
    bundle: Bundle, other: Bundle | None, *, gold: Sequence[Example], reference: Sequence[Example], task: Task,
    pairs: int, progress: Progress,
) -> tuple[Served, list[Example], list[Example] | None, Any]:
    """The bundle's answers, those to its reference queries, the released bundle's, and the latency difference."""
    from eval.endpoint import Target
    from eval.latency import times_as_slow
    from eval.load_generator import in_turns
    from serving.client import label_all, served

    with tempfile.TemporaryDirectory(prefix="limbeck-gate-") as state, contextlib.ExitStack() as stack:
        progress.begin("starting vLLM and the gateway")
        url = stack.enter_context(served(bundle.folder, state=Path(state) / "new", options=UNCHECKED))
        new = ask(url, bundle.folder, gold, task, progress, load=task.gates.slo is not None)
        progress.begin("reference answers", len(reference))
        said = label_all(url, reference, batch=_BATCH, done=progress.advance)
        if other is None:
            return new, said, None, None
        progress.begin("starting the released bundle")
        beside = stack.enter_context(served(other.folder, state=Path(state) / "released"))
        progress.begin("the released bundle", len(gold))
        before = label_all(beside, gold, batch=_BATCH, done=progress.advance)
        queries = [gold[i % len(gold)].query for i in range(pairs + _WARM_UP)]
        progress.begin("both bundles alternately", len(queries))
        mine, theirs = in_turns([Target(url), Target(beside)], queries, use_cache=False, on_done=progress.advance)
        return new, said, before, times_as_slow(mine.latency[_WARM_UP:], theirs.latency[_WARM_UP:])


def _released(source: Path | None, bundle: Bundle) -> Bundle | None:
    """The bundle that is released now; None where there is none, or it is this one."""
    from serving.release.bundle import open_bundle
    from serving.release.pointer import read_pointer

    if source is None or (source.suffix == ".json" and not source.exists()):
        return None
    folder = source if source.is_dir() else read_pointer(source).current.bundle
    other = open_bundle(folder)
    if other.task.name != bundle.task.name:
        raise InputError(
            "the released bundle is of another task", field="--released", found=other.task.name,
            expected=bundle.task.name,
        )
    return other


def _of_gold(source: Path, gold: Sequence[Example], task: Task) -> list[Example]:
    """Labels of the gold queries; a query without a prediction has none."""
    from eval.prediction_files import read_predictions

    found = {p.row.query: p.row for p in read_predictions(source, task)}
    return [found.get(g.query, Example(g.query)) for g in gold]


def _engine_agreement(bundle: Bundle) -> float | None:
    """The agreement that `limbeck evaluate` recorded for this bundle, for forms without reference answers."""
    noted = bundle.manifest.get("gate")
    if not noted or noted["bundle"] != bundle.id:
        return None
    found = next((c["evidence"] for c in noted["checks"] if c["rule"] == "engine_label_agreement"), None)
    return None if found is None else float(found)



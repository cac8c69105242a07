"""`limbeck compare`: bundles, endpoints and prediction files on the same queries, timed in ABBA order."""

from __future__ import annotations

import contextlib
import datetime
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from limbeck.environment import device, git_commit, versions
from task.errors import InputError
from task.labels import Example
from task.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from eval.page_schema import Comparison, MeasuredSystem
    from task.spec import Task
    from task.validation import FaultKind

Kind = Literal["bundle", "endpoint", "predictions"]
_WARM_UP = 10


@dataclass(frozen=True, slots=True)
class System:
    """A system to compare; `source` is its folder, URL or file."""

    name: str
    kind: Kind
    source: str


def named(sources: Sequence[str]) -> list[System]:
    """Parse the arguments of the command; `NAME=SOURCE` names a system.

    Raises:
        InputError: A source is none of the three, or two systems have the same name.
    """
    out: list[System] = []
    for source in sources:
        name, equals, rest = source.partition("=")
        where = rest if equals and "/" not in name else source
        label = name if equals and "/" not in name else where.rstrip("/")
        path = Path(where)
        kind: Kind
        if where.startswith(("http://", "https://")):
            kind = "endpoint"
        elif (path / "manifest.json").exists():
            kind = "bundle"
        elif path.is_file():
            kind = "predictions"
        else:
            raise InputError(
                "nothing to compare", field="SYSTEM", found=source,
                expected="a bundle folder, the URL of `limbeck serve`, or a file of predictions",
            )
        if any(x.name == label for x in out):
            raise InputError("two systems have one name", found=label, field="SYSTEM", fix="Name them: NAME=SOURCE")
        out.append(System(label, kind, where))
    return out


def compare(
    systems: Sequence[System], gold_file: Path, progress: Progress, *, resamples: int, pairs: int
) -> Comparison:
    """Paired quality and latency; every system is compared with the first."""
    from eval.latency import percentiles, times_as_slow
    from eval.pareto import pareto_front
    from eval.quality import paired, quality
    from eval.score import aligned
    from task.readers import read_labels

    task = _task(systems, gold_file, resamples)
    gold = read_labels(gold_file, task)
    rows, invalid, times = _measured(systems, gold, task, progress, pairs)
    for s in systems:
        if s.kind == "predictions":
            rows[s.name], invalid[s.name], _ = aligned(gold, Path(s.source), task)
    first = systems[0].name
    out: list[MeasuredSystem] = []
    progress.begin("scoring", len(systems))
    for s in systems:
        found = quality(gold, rows[s.name], task, invalid=invalid[s.name])
        spent = times.get(s.name)
        out.append({
            "name": s.name, "kind": s.kind, "source": s.source, "f1": found["value"]["f1"], "quality": found,
            "latency": percentiles(spent) if spent is not None else None,
            "p50_ms": percentiles(spent)["p50_ms"] if spent is not None else None,
            "less_first": None if s.name == first else paired(gold, rows[s.name], rows[first], task),
            "slower_than_first": times_as_slow(spent, times[first])
            if s.name != first and spent is not None and first in times else None,
        })
        progress.advance()
    return {
        "task": task.name, "rows": len(gold), "first": first, "resamples": task.eval.resamples,
        "confidence": task.eval.confidence, "pairs": pairs if times else 0,
        "systems": [{**s, "best": best} for s, best in zip(out, pareto_front(out), strict=True)],
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "versions": versions(),
        "device": device(), "git": git_commit(),
    }


def _task(systems: Sequence[System], gold: Path, resamples: int) -> Task:
    from eval.score import task_of
    from serving.release.bundle import open_bundle

    bundles = [open_bundle(Path(s.source)) for s in systems if s.kind == "bundle"]
    other = next((b for b in bundles if b.task.name != bundles[0].task.name), None)
    if other is not None:
        raise InputError("bundles of different tasks", found=other.task.name, expected=bundles[0].task.name)
    if not bundles:
        return task_of(gold, *(Path(s.source) for s in systems if s.kind == "predictions"), resamples=resamples)
    task = bundles[0].task
    return task.model_copy(update={"eval": task.eval.model_copy(update={"resamples": resamples})})


def _measured(
    systems: Sequence[System], gold: Sequence[Example], task: Task, progress: Progress, pairs: int
) -> tuple[dict[str, list[Example]], dict[str, list[FaultKind | None]], dict[str, npt.NDArray[np.float64]]]:
    """Answers of the systems that run, why each is invalid, and latencies of the same queries."""
    from eval.endpoint import Target
    from eval.load_generator import in_turns
    from limbeck.judging.served import fault_of
    from serving.client import answer_all, served

    running = [s for s in systems if s.kind != "predictions"]
    rows: dict[str, list[Example]] = {}
    invalid: dict[str, list[FaultKind | None]] = {}
    with tempfile.TemporaryDirectory(prefix="limbeck-compare-") as state, contextlib.ExitStack() as stack:
        urls = []
        for number, s in enumerate(running):
            if s.kind == "bundle":
                progress.begin(f"starting {s.name}")
                urls.append(stack.enter_context(served(Path(s.source), state=Path(state) / str(number))))
            else:
                urls.append(s.source.rstrip("/"))
        for s, url in zip(running, urls, strict=True):
            progress.begin(s.name, len(gold))
            answers = answer_all(url, gold, batch=64, done=progress.advance)
            rows[s.name], invalid[s.name] = [a.row for a in answers], [fault_of(a, task) for a in answers]
        if not running or not pairs:
            return rows, invalid, {}
        queries = [gold[i % len(gold)].query for i in range(pairs + _WARM_UP)]
        progress.begin("all systems alternately", len(queries))
        found = in_turns([Target(u) for u in urls], queries, use_cache=False, on_done=progress.advance)
        return rows, invalid, {s.name: x.latency[_WARM_UP:] for s, x in zip(running, found, strict=True)}

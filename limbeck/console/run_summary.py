"""What is known of a run at a glance: its stages, the answer of its report, its rounds, and what runs in it now.

Read from manifests alone. Whether data, task or code have changed since is what `limbeck plan` finds out; here a stage
is stale if another stage that it read has other outputs by now.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from eval.formatting import percent, points, words
from eval.report_schema import Report, read_report
from limbeck.artefacts import RunFolder
from limbeck.console.run_folders import task_of
from limbeck.progress_file import Running, running
from limbeck.rounds.folders import round_folders
from task.errors import InputError
from task.files import read_json
from task.spec import Task

STAGES: Final = ("sample", "label", "curriculum", "cross-fit", "train", "merge", "bundle", "evaluate")
_ONLY_IF_WANTED: Final = frozenset({"sample", "cross-fit"})
# Stage → input in its manifest → the stages whose outputs that is: of several, the last one that the task has.
READS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "curriculum": {"labels": ("label",)}, "cross-fit": {"curriculum": ("curriculum",)},
    "train": {"curriculum": ("curriculum", "cross-fit")}, "merge": {"adapter": ("train",)},
    "bundle": {"model": ("merge",), "labels": ("label",)},
    "evaluate": {name: (name,) for name in ("label", "train", "merge", "bundle")},
}
_MOST_FIGURES: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSummary:
    """A stage of a run.

    Attributes:
        why: Of one that is stale, a sentence.
        finished: As ISO 8601.
        headline: Its most important figures.
        figures: All of them, as text.
    """

    name: str
    state: Literal["done", "stale", "running", "interrupted", "unreadable", "not run"]
    why: str = ""
    finished: str | None = None
    wall_s: float | None = None
    headline: str = ""
    figures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """The answer of a run's last report: may the student replace the teacher?

    Attributes:
        f1: Of the served student, in per cent with its interval.
        difference: ΔF1 against `against`, in points with its interval.
    """

    answer: str
    why: tuple[str, ...]
    f1: str
    difference: str
    against: str | None
    finished: str
    bundle: str


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run at a glance.

    Attributes:
        task: None where the run does not say which it is; `problem` says why then.
        now: The command that runs a stage in it.
        rounds: How many have begun.
    """

    name: str
    task: Task | None
    problem: str
    stages: tuple[StageSummary, ...]
    report: ReportSummary | None
    rounds: int
    now: Running | None


def summary_of(name: str, files: RunFolder) -> RunSummary:
    """A run at a glance; reads its manifests and its report, and raises nothing for what it cannot read."""
    task, problem = None, ""
    try:
        task = task_of(files)
    except InputError as error:
        problem = str(error)
    now = running(files.progress)
    rounds = sum(1 for folder in round_folders(files.folder) if folder.opening.exists())
    return RunSummary(name, task, problem, tuple(_stages(files, task, now)), report_of(files), rounds, now)


def report_of(files: RunFolder) -> ReportSummary | None:
    """The answer of the last report; None where there is none that can be read."""
    try:
        stat = files.evaluate.report.stat()
    except OSError:
        return None
    return _report(files.evaluate.report, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=256)
def _report(path: Path, _changed: int, _size: int) -> ReportSummary | None:
    try:
        found = read_report(path)
        return None if found is None else _answer(found)
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _answer(report: Report) -> ReportSummary:
    headline = report.get("headline")
    return ReportSummary(
        answer=headline["answer"] if headline else "not shown", why=tuple(headline["why"]) if headline else (),
        f1=percent(report["systems"][report["served"]]["value"]["f1"]),
        difference=points(headline["difference"]) if headline else "–",
        against=headline["against"] if headline else None, finished=report["finished"], bundle=report["bundle"]["id"],
    )


def _stages(files: RunFolder, task: Task | None, now: Running | None) -> Iterator[StageSummary]:
    manifests: dict[str, Mapping[str, Any] | None] = {}
    for name in STAGES:
        path = files.folder / name / "manifest.json"
        if path.exists():
            manifests[name] = _manifest(path)
    digests = {name: found["digest"] for name, found in manifests.items() if found is not None}
    if task is not None and task.curriculum.cross_fit is None:
        digests.pop("cross-fit", None)
    for name in STAGES:
        if name in manifests or name not in _ONLY_IF_WANTED or _is_wanted(name, task):
            yield _stage(files, name, manifests, digests, now)


def _is_wanted(name: str, task: Task | None) -> bool:
    if task is None:
        return False
    return task.data.sample is not None if name == "sample" else task.curriculum.cross_fit is not None


def _stage(
    files: RunFolder, name: str, manifests: Mapping[str, Mapping[str, Any] | None], digests: Mapping[str, str],
    now: Running | None,
) -> StageSummary:
    if now is not None and now.stage == name:
        return StageSummary(name=name, state="running")
    begun = (files.folder / f".{name}.tmp").exists()
    if name not in manifests:
        return StageSummary(name=name, state="interrupted" if begun else "not run")
    found = manifests[name]
    if found is None:
        return StageSummary(name=name, state="unreadable")
    changed = list(_changed(found, READS.get(name, {}), digests))
    return StageSummary(
        name=name, state="interrupted" if begun else "stale" if changed else "done",
        why="" if not changed else f"{' and '.join(changed)} changed since", finished=found["finished"],
        wall_s=float(found["wall_s"]), headline=str(found.get("headline") or _some(found["figures"])),
        figures=tuple((str(k).replace("_", " "), words(v)) for k, v in found["figures"].items() if k != "checks"),
    )


def _changed(
    manifest: Mapping[str, Any], reads: Mapping[str, tuple[str, ...]], digests: Mapping[str, str]
) -> Iterator[str]:
    for key, makers in reads.items():
        maker = next((m for m in reversed(makers) if m in digests), None)
        if key in manifest["inputs"] and maker is not None and manifest["inputs"][key] != digests[maker]:
            yield maker


def _manifest(path: Path) -> Mapping[str, Any] | None:
    """A stage's manifest; None for what is none."""
    try:
        found = read_json(path)
        if {"digest", "inputs", "figures", "finished", "wall_s"} <= found.keys():
            return found if isinstance(found, dict) else None
    except (OSError, ValueError, AttributeError):
        pass
    return None


def _some(figures: Mapping[str, Any]) -> str:
    """Some figures of a manifest of before, which has no headline; its summary, if it has one."""
    if isinstance(figures.get("summary"), str):
        return str(figures["summary"])
    plain = [(k, v) for k, v in figures.items() if isinstance(v, int | float) and not isinstance(v, bool)]
    return ", ".join(f"{k.replace('_', ' ')} {words(v)}" for k, v in plain[:_MOST_FIGURES])

"""A stage reads files and writes one folder with a manifest; it is skipped while nothing that it depends on changes.

A stage is written under a temporary name and renamed when it is complete, so an existing folder is
complete. The temporary folder survives a kill: the same stage with the same fingerprint resumes in it.

A stage may end with less than it was given, such as queries without an answer. It is then not finished: the next
execution does what is missing, in a copy of its folder. So does one for which only the gates changed that the result
is judged by: what was made is judged again, not made again.
"""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from limbeck import __version__
from limbeck.environment import device, git_commit, versions
from limbeck.progress_file import progress_on_disk
from limbeck.run import Run, Shortfall
from limbeck.staleness import FIRST, Ingredients, Rules, reasons
from task.files import link_or_copy, read_json, sha256_file, sha256_json, write_json, write_text
from task.spec import Task

# Written while any stage runs: different every time, and read by no later stage.
_ALWAYS_SCRATCH: Final = frozenset({"fingerprint", "manifest.json"})

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """A finished stage."""

    name: str
    folder: Path
    manifest: Mapping[str, Any]
    skipped: bool
    shortfall: Shortfall | None = None

    @property
    def digest(self) -> str:
        """What downstream stages depend on."""
        return str(self.manifest["digest"])

    @property
    def figures(self) -> Figures:
        """What the stage's work returned."""
        figures: Figures = self.manifest["figures"]
        return figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A step of a run. Whether it must be run again follows from `config`, `inputs`, `rules` and `missing` alone.

    Attributes:
        name: Of the stage and of its folder in the run folder.
        config: What of the task its result depends on, JSON-ready.
        inputs: Name → SHA-256 of what it reads.
        rules: Name → version or digest of the parts of our code that its result depends on (`limbeck.staleness`).
        missing: What its figures say that it could not do; None if it is finished.
        work: Writes into the folder that it is given, which may hold the remains of a killed attempt, and returns
            figures for the manifest.
        headline: The figures that a person wants to see at once, as text.
        scratch: Names of files and folders in its folder on which nothing may depend: they differ in every run.
        judged_by: Keys of `config` that change nothing in what is made and only decide whether it passes. With others,
            the work is given what it made before, as links: it may replace files there and must not write into them.
        wanted: Whether a task has this stage at all.
        phase: What its time is counted as in the report's cost: nothing, labelling or training.
    """

    name: str
    config: Callable[[Run], object]
    inputs: Callable[[Run], Mapping[str, str]]
    rules: Callable[[Run], Rules] = lambda _run: {}
    missing: Callable[[Run, Figures], Shortfall | None] = lambda _run, _figures: None
    work: Callable[[Run, Path], Figures]
    headline: Callable[[Figures], str] = str
    scratch: frozenset[str] = frozenset()
    judged_by: frozenset[str] = frozenset()
    wanted: Callable[[Task], bool] = lambda _task: True
    phase: Literal["label", "train"] | None = None


def ingredients(stage: Stage, run: Run) -> Ingredients:
    """What the result of a stage depends on now. Raises `InputError` if a file or an earlier stage is not there."""
    return Ingredients(stage.config(run), dict(stage.inputs(run)), dict(stage.rules(run)))


def execute(stage: Stage, run: Run) -> Result:
    """Run a stage unless its result is there already, complete, and nothing that it depends on has changed."""
    now = ingredients(stage, run)
    final = run.files.folder / stage.name
    staged = final.with_name(f".{final.name}.tmp")
    fingerprint = _fingerprint(stage, now)
    manifest = final / "manifest.json"
    again = ""  # why what was made is gone on with
    copy: Callable[[str, str], object] = shutil.copy2
    if manifest.exists():
        found = read_json(manifest)
        changed = reasons(found, now)
        if not changed:
            left = stage.missing(run, found["figures"])
            if left is None:
                return Result(stage.name, final, found, skipped=True)
            again = f"not finished: {left.text}"
        elif not reasons(
            {**found, "config": _unjudged(stage, found["config"])}, replace(now, config=_unjudged(stage, now.config))
        ):
            again, copy = f"judged again: {', '.join(changed)}", _link
    note = staged / "fingerprint"
    if staged.exists() and (not note.exists() or note.read_text() != fingerprint):
        shutil.rmtree(staged)
    if again:
        run.progress.begin(again)
        if not staged.exists():  # the work finds what it did, as after a kill, and does the rest
            copied = final.with_name(f".{final.name}.copy")
            shutil.rmtree(copied, ignore_errors=True)
            shutil.copytree(
                final, copied, symlinks=True, ignore=shutil.ignore_patterns("manifest.json"), copy_function=copy
            )
            copied.rename(staged)
    staged.mkdir(parents=True, exist_ok=True)
    write_text(note, fingerprint)
    started = time.time()
    figures = stage.work(run, staged)
    outputs = _outputs(staged, stage.scratch | _ALWAYS_SCRATCH)
    content = {
        "stage": stage.name,
        "fingerprint": fingerprint,
        "digest": sha256_json(outputs),
        "inputs": dict(now.inputs),
        "config": now.config,
        "rules": dict(now.rules),
        "figures": dict(figures),
        "headline": stage.headline(figures),
        "outputs": outputs,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "wall_s": round(time.time() - started, 2),
        "versions": versions(),
        "device": device(),
        "git": git_commit(),
    }
    write_json(staged / "manifest.json", content)
    _replace(staged, final)
    return Result(stage.name, final, content, skipped=False, shortfall=stage.missing(run, figures))


def execute_shown(stage: Stage, run: Run, *, number: int, of: int) -> Result:
    """The same as one of several, with its progress and its headline shown and its shortfall noted.

    While it runs, other processes find its progress in the run folder (`limbeck.progress_file`).

    Raises:
        IncompleteError: It did so little that the next one would make no sense.
    """
    run.files.folder.mkdir(parents=True, exist_ok=True)
    run.progress.stage(stage.name, number, of)
    with progress_on_disk(run.files.progress, run.progress):
        result = execute(stage, run)
    state = "unchanged, not run again" if result.skipped else f"done in {result.manifest['wall_s']:,.0f} s"
    short = result.shortfall
    headline = stage.headline(result.figures) + (f" · not finished: {short.text}" if short else "")
    run.progress.finished(f"{state} · {headline}")
    if short is not None:
        run.note(short)
    return result


def _unjudged(stage: Stage, config: object) -> object:
    """The part of a config on which it depends what is made."""
    return {k: v for k, v in config.items() if k not in stage.judged_by} if isinstance(config, dict) else config


def _link(source: str, target: str) -> None:
    link_or_copy(Path(source), target=Path(target))


def _fingerprint(stage: Stage, now: Ingredients) -> str:
    """What an interrupted attempt is recognised by; rules that are as they were first are left out, as they were."""
    changed = {k: v for k, v in now.rules.items() if v != FIRST[k]}
    config = _unjudged(stage, now.config)
    content = {"stage": stage.name, "version": __version__, "config": config, "inputs": now.inputs}
    return sha256_json(content | ({"rules": changed} if changed else {}))


def _outputs(folder: Path, scratch: frozenset[str]) -> dict[str, str]:
    """SHA-256 of every file that later stages may depend on."""
    return {
        str(p.relative_to(folder)): sha256_file(p)
        for p in sorted(folder.rglob("*"))
        # A bundle's own manifest gets the gate's verdict later; the bundle's id identifies its content.
        if p.is_file() and not p.is_symlink() and p.name != "manifest.json"
        and p.relative_to(folder).parts[0] not in scratch
    }


def _replace(staged: Path, final: Path) -> None:
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    staged.rename(final)
    shutil.rmtree(old, ignore_errors=True)

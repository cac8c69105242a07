"""What a run would do in the run folder of `fixtures/run-before`, whose manifests are of before stages had rules."""

from __future__ import annotations

import json
from pathlib import Path

from limbeck.pipeline import STAGES, states
from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from limbeck.stage import ingredients
from task.load import load_task
from tests.conftest import FIXTURES

BEFORE = FIXTURES / "run-before"


def write_labels(runs: Path, name: str, of: str) -> None:
    """A file of the label stage, with a row for every query of a data file."""
    rows = (json.loads(line) for line in (runs.parent / of).read_text().splitlines())
    lines = (json.dumps({"query": r["query"], "labels": []}) + "\n" for r in rows)
    (runs / "before" / "label" / name).write_text("".join(lines))


def stale(runs: Path, *overrides: str) -> dict[str, tuple[str, ...]]:
    """Stage → why, of those that are stale themselves; the others must be unchanged, or wait for one that is."""
    task = load_task(runs.parent / "task.yaml", overrides).task
    found = states(Run.of(task, runs, ProgressDisplay()))
    assert [s.name for s in found] == [s.name for s in STAGES if s.wanted(task)]
    out = {s.name: s.why for s in found if s.state == "stale"}
    first = next((i for i, s in enumerate(found) if s.name in out), len(found))
    for number, s in enumerate(found):
        if s.name not in out:
            assert s.state == ("waits" if number > first else "unchanged")
    return out


def now(runs: Path, *overrides: str) -> None:
    """Make every stage up to date with the overrides, as a run would."""
    run = Run.of(load_task(runs.parent / "task.yaml", overrides).task, runs, ProgressDisplay())
    for stage in STAGES:
        manifest = runs / "before" / stage.name / "manifest.json"
        if stage.wanted(run.task):
            found = ingredients(stage, run)
            new = {"config": found.config, "inputs": dict(found.inputs), "rules": dict(found.rules)}
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | new))

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from limbeck.pipeline import STAGES
from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from task.files import sha256_file
from task.load import load_task
from tests.limbeck.run_before import BEFORE, write_labels


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A copy of the task with its data, and the run folder of before; every stage has been run."""
    for file in BEFORE.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    for manifest in (BEFORE / "run").iterdir():
        folder = tmp_path / "runs" / "before" / manifest.stem
        folder.mkdir(parents=True)
        shutil.copy(manifest, folder / "manifest.json")
    write_labels(tmp_path / "runs", "labels.jsonl", "queries.jsonl")
    return tmp_path / "runs"


@pytest.fixture
def runs(before: Path) -> Path:
    """The same, as if it had been run with the rules of now."""
    run = Run.of(load_task(before.parent / "task.yaml").task, before, ProgressDisplay())
    write_labels(before, "gold-test.jsonl", "test.jsonl")
    for stage in STAGES:
        manifest = before / "before" / stage.name / "manifest.json"
        if stage.wanted(run.task):
            content = json.loads(manifest.read_text())
            if isinstance(content["config"], dict):  # "none" was the default
                content["config"].get("serving", {}).pop("quantization", None)
            if stage.name == "evaluate":
                content["inputs"]["teacher on gold"] = sha256_file(run.files.label.compared)
            manifest.write_text(json.dumps(content | {"rules": dict(stage.rules(run))}))
    return before

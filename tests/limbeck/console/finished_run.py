"""A run folder with every stage, as a run leaves it: the manifests of `fixtures/run-before`, its task, a report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from eval.report import write
from limbeck.artefacts import RunFolder
from task.files import write_json
from task.load import load_task
from tests.limbeck.run_before import BEFORE

AT = "2026-11-28T10:00:00+00:00"


def make_finished(runs: Path, name: str = "before") -> RunFolder:
    """The run folder `runs/NAME`; its data lies beside it, in `runs/../NAME-data`."""
    data = runs.parent / f"{name}-data"
    data.mkdir(parents=True)
    for file in BEFORE.iterdir():
        if file.is_file():
            shutil.copy(file, data)
    files = RunFolder(runs / name)
    for manifest in (BEFORE / "run").iterdir():
        (files.folder / manifest.stem).mkdir(parents=True)
        shutil.copy(manifest, files.folder / manifest.stem / "manifest.json")
    task = load_task(data / "task.yaml", [f"name={name}"]).task
    write_json(files.task, task.model_dump(mode="json"))
    return files


def add_report(files: RunFolder, content: tuple[dict[str, Any], Any], *, f1: float = 0.9) -> None:
    """Write the report's page and JSON into the run, with this F1 of the served student."""
    report, samples = json.loads(json.dumps(content[0])), content[1]
    report |= {"finished": AT, "changes": None, "task": files.folder.name}
    report["systems"][report["served"]]["value"]["f1"] = {"value": f1, "low": f1 - 0.01, "high": f1 + 0.01}
    write(files.evaluate.folder, report, samples)

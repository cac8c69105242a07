from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck.artefacts import RunFolder
from limbeck.inputs import Inputs
from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from limbeck.stages.sample import STAGE
from samples.market.months import write_month
from task.load import load_task

SMALL = ("data.sample_queries=400", "data.sample_items=800")


def run_of(folder: Path, *settings: str) -> Run:
    task = load_task("configs/market.yaml", [*SMALL, *settings]).task
    return Run(task, RunFolder(folder), Inputs(task, folder / "sample"), ProgressDisplay())


def config_of(run: Run) -> Any:
    assert STAGE.config is not None
    return STAGE.config(run)


def test_the_settings_of_month_0_are_those_of_before_there_were_months(tmp_path: Path) -> None:
    assert config_of(run_of(tmp_path)) == {"seed": 0, "queries": 400, "items": 800}
    assert config_of(run_of(tmp_path, "data.sample_month=2")) == {"seed": 0, "queries": 400, "items": 800, "month": 2}


def test_a_run_gets_the_month_that_its_task_names(tmp_path: Path) -> None:
    run = run_of(tmp_path, "data.sample_month=1")
    (tmp_path / "sample").mkdir()
    figures = STAGE.work(run, tmp_path / "sample")
    write_month(tmp_path / "same", seed=0, queries=400, items=800, month=1)
    for file in (tmp_path / "same").iterdir():
        assert (tmp_path / "sample" / file.name).read_bytes() == file.read_bytes()
    assert figures["queries"] == len(run.inputs.queries) == 400
    assert "quivanta" in {item.brand for item in run.inputs.catalogue}

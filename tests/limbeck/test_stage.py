from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from limbeck.artefacts import RunFolder
from limbeck.inputs import Inputs
from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from limbeck.stage import Result, Stage, execute
from task.errors import GateError, InputError
from task.files import read_json
from tests.conftest import make_task


class Work:
    def __init__(self, fail: bool = False) -> None:
        self.calls, self.fail, self.found = 0, fail, ""

    def __call__(self, _run: Run, folder: Path) -> Mapping[str, Any]:
        self.calls += 1
        partial = folder / "partial"
        self.found = partial.read_text() if partial.exists() else ""
        partial.write_text("half")
        if self.fail:
            raise KeyboardInterrupt
        (folder / "out.txt").write_text("done")
        return {"n": 1}


def run_stage(folder: Path, name: str, *, config: object, inputs: Mapping[str, str], work: Work) -> Result:
    task = make_task()
    run = Run(task, RunFolder(folder), Inputs(task, folder / "sample"), ProgressDisplay())
    return execute(Stage(name=name, config=lambda _run: config, inputs=lambda _run: inputs, work=work), run)


def test_a_stage_that_stands_is_not_run_again(tmp_path: Path) -> None:
    work = Work()
    first = run_stage(tmp_path, "s", config={"a": 1}, inputs={"x": "1"}, work=work)
    again = run_stage(tmp_path, "s", config={"a": 1}, inputs={"x": "1"}, work=work)
    assert (work.calls, first.skipped, again.skipped) == (1, False, True)
    assert again.digest == first.digest
    assert {"wall_s", "versions", "git", "outputs", "inputs", "config"} <= again.manifest.keys()


@pytest.mark.parametrize("change", [{"config": {"a": 2}}, {"inputs": {"x": "2"}}])
def test_other_config_or_inputs_run_it_afresh(tmp_path: Path, change: dict[str, Any]) -> None:
    run_stage(tmp_path, "s", config={"a": 1}, inputs={"x": "1"}, work=Work())
    work = Work()
    run_stage(tmp_path, "s", **({"config": {"a": 1}, "inputs": {"x": "1"}} | change), work=work)
    assert (work.calls, work.found) == (1, "")


def test_a_killed_stage_goes_on_and_nothing_half_done_is_seen(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path, "s", config=1, inputs={}, work=Work(fail=True))
    assert not (tmp_path / "s").exists()
    work = Work()
    run_stage(tmp_path, "s", config=1, inputs={}, work=work)
    assert work.found == "half"
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path, "s", config=2, inputs={}, work=Work(fail=True))
    other = Work()
    run_stage(tmp_path, "s", config=3, inputs={}, work=other)
    assert other.found == ""  # remains of another fingerprint are not gone on with


def test_what_was_made_is_judged_by_changed_gates_and_not_made_again(tmp_path: Path) -> None:
    run = Run(make_task(), RunFolder(tmp_path), Inputs(make_task(), tmp_path / "sample"), ProgressDisplay())
    made: list[int] = []

    def stage(least: int, seed: int = 0) -> Result:
        def work(_run: Run, folder: Path) -> Mapping[str, Any]:
            if not (folder / "out.txt").exists():
                made.append(seed)
                (folder / "out.txt").write_text(f"{seed}")
            if least > 5:
                raise GateError("5 is too few")
            return {"found": 5}

        return execute(Stage(
            name="s", config=lambda _run: {"gates": {"least": least}, "seed": seed}, inputs=lambda _run: {}, work=work,
            judged_by=frozenset({"gates"}),
        ), run)

    with pytest.raises(GateError):
        stage(6)  # an attempt that missed its gate is judged by the lower one
    first = stage(4)
    with pytest.raises(GateError):
        stage(7)
    assert read_json(tmp_path / "s" / "manifest.json") == first.manifest
    again = stage(5)
    assert (made, again.skipped, again.digest) == ([0], False, first.digest)
    assert again.manifest["config"] == {"gates": {"least": 5}, "seed": 0}
    assert stage(5).skipped
    with pytest.raises(GateError):
        stage(6, seed=1)
    assert made == [0, 1]
    assert (tmp_path / "s" / "out.txt").read_text() == "0"  # links are replaced, not written into


def test_scratch_files_do_not_change_the_digest_and_others_do(tmp_path: Path) -> None:
    run = Run(make_task(), RunFolder(tmp_path), Inputs(make_task(), tmp_path / "sample"), ProgressDisplay())

    def written(config: int, scratch: str, kept: str) -> str:
        def work(_run: Run, folder: Path) -> Mapping[str, Any]:
            (folder / "noise").mkdir(exist_ok=True)
            (folder / "noise" / "log.txt").write_text(scratch)
            (folder / "out.txt").write_text(kept)
            return {}

        stage = Stage(
            name="s", config=lambda _run: config, inputs=lambda _run: {}, work=work, scratch=frozenset({"noise"})
        )
        return execute(stage, run).digest

    assert written(1, "a", "same") == written(2, "b", "same")
    assert written(3, "a", "other") != written(4, "a", "same")


def test_a_stage_that_has_not_been_run_is_named(tmp_path: Path) -> None:
    run = Run(make_task(), RunFolder(tmp_path), Inputs(make_task(), tmp_path / "sample"), ProgressDisplay())
    with pytest.raises(InputError, match=r"stage 'label' has not been run.*limbeck run TASK"):
        run.digest("label")

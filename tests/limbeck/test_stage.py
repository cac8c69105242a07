from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from limbeck.stage import run_stage


class Work:
    def __init__(self, fail: bool = False) -> None:
        self.calls, self.fail, self.found = 0, fail, ""

    def __call__(self, folder: Path) -> Mapping[str, Any]:
        self.calls += 1
        partial = folder / "partial"
        self.found = partial.read_text() if partial.exists() else ""
        partial.write_text("half")
        if self.fail:
            raise KeyboardInterrupt
        (folder / "out.txt").write_text("done")
        return {"n": 1}


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

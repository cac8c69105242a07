from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from limbeck.progress_display import ProgressDisplay
from limbeck.rounds.round import check, run_round
from limbeck.rounds.watch import watch
from limbeck.run import Run
from serving.release.pointer import Pointer, Release
from task.errors import InputError
from task.files import write_json
from tests.conftest import make_task


def a_run(folder: Path, **changes: Any) -> Run:
    write_json(folder / "live.json", Pointer(
        current=Release(bundle=Path("live.json.bundles/a"), id="a"), at="2026-11-01T00:00:00+00:00"
    ).model_dump(mode="json"))
    data = {"dir": str(folder), "queries": "log.jsonl", "catalogue": "items.jsonl", "gold": {"test": "gold.jsonl"}}
    task = make_task(**{
        "data": data,
        "roles": [{"name": "product", "catalogue": "category.leaf"}], "teacher": {"backend": "catalog"}, **changes,
    })
    return Run.of(task, folder / "runs", ProgressDisplay())


def test_what_keeps_a_round_from_ending_is_told_and_tried_again(tmp_path: Path) -> None:
    told: list[str] = []
    pauses: list[float] = []
    pages: list[int] = []
    watch(
        a_run(tmp_path), pointer=tmp_path / "live.json", state=tmp_path / "state", every_s=7_200.0, tell=told.append,
        ended=lambda: pages.append(1), sleep=pauses.append, looks=3,
    )
    assert len(told) == len(pages) == 3
    assert all("no captures of this task" in t and t.endswith("Tried again in 2 h") for t in told)
    assert pauses == [7_200.0, 7_200.0]
    assert not list((tmp_path / "runs" / "toy" / "rounds").rglob("round.json"))


@pytest.mark.parametrize(("changes", "message"), [
    ({"teacher": {"backend": "labels"}, "data": {"dir": ".", "labels": "labels.jsonl", "gold": {"test": "gold.jsonl"}}},
     "teacher.backend: this teacher has labels of its own queries only, and a round labels new ones; found 'labels'"),
    ({"data": {"dir": ".", "queries": "log.jsonl", "catalogue": "items.jsonl"}},
     "data.gold.test: a round judges its student on gold rows"),
    ({"student": {"form": "write"}}, "gates.engine_label_agreement: a round cannot compare"),
])
def test_what_a_round_needs_is_said_before_anything_is_done(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run = a_run(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        watch(run, pointer=tmp_path / "live.json", state=tmp_path / "state", every_s=1.0, tell=print, looks=1)
    with pytest.raises(InputError, match=message):
        run_round(run, pointer=tmp_path / "live.json", state=tmp_path / "state")


def test_a_pointer_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no release pointer here"):
        check(a_run(tmp_path), tmp_path / "other.json")

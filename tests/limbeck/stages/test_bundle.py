"""What the bundle stage depends on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from limbeck.stages import bundle
from limbeck.staleness import FIRST
from task import word_index
from tests.conftest import make_task


def run_of(folder: Path, roles: list[dict[str, Any]]) -> Run:
    """A run whose catalogue has one item."""
    (folder / "c.jsonl").write_text(json.dumps({"id": "1", "title": "oat drink"}) + "\n")
    data = {"dir": str(folder), "labels": "labels.jsonl", "catalogue": "c.jsonl"}
    return Run.of(make_task(roles=roles, data=data, student={"form": "write"}), folder, ProgressDisplay())


@pytest.mark.parametrize("grounded", [True, False])
def test_only_a_bundle_whose_texts_must_find_an_item_depends_on_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grounded: bool
) -> None:
    monkeypatch.setattr(Run, "digest", lambda _run, stage: stage)
    run = run_of(tmp_path, [{"name": "synonym", "kind": "text", "grounded": grounded}])
    before = bundle._inputs(run)
    name = "words of the catalogue"
    assert (name in bundle._rules(run), "catalogue" in before) == (grounded, grounded)
    assert FIRST[name] != word_index.VERSION  # a bundle of before has no words: it is made again
    (tmp_path / "c.jsonl").write_text(json.dumps({"id": "1", "title": "rye bread"}) + "\n")
    changed = bundle._inputs(Run.of(run.task, tmp_path, ProgressDisplay()))
    assert (changed != before) == grounded

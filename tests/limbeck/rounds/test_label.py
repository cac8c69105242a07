"""What a round pays for: its picks, and labels that the catalogue no longer confirms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from limbeck.progress_display import ProgressDisplay
from limbeck.rounds import label as round_label
from limbeck.rounds.folders import RoundFolder, RoundLabelFolder, round_folder
from limbeck.rounds.inputs import RoundInputs
from limbeck.rounds.judge import drawn_requests
from limbeck.run import Run
from limbeck.stage import execute
from task.files import write_json, write_jsonl
from task.load import load_task
from task.table_files import rows_of
from teacher.ledger.ledger import Ledger
from tests.limbeck.stages.shop import write_shop
from tests.limbeck.test_cli import in_process
from tests.llm_client.fake_api import FakeApi

LOG = [f"thing{i} milk" for i in range(4)]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as running:
        yield running


def picked(query: str, why: str, *, known: bool = False, draws: int = 0) -> dict[str, Any]:
    return {"query": query, "count": 7, "why": why, "draws": draws, "known": known, "expected_errors": 1.0}


def a_round(folder: Path, task_file: Path, picks: list[dict[str, Any]]) -> Run:
    """A round of a run whose labels are made, with these picks."""
    task = load_task(task_file).task
    base = folder / "runs" / "shop"
    files = round_folder(base, 1)
    write_jsonl(files.picks, picks)
    write_json(files.folder / "picks" / "manifest.json", {"digest": "p", "figures": {}})
    return Run(
        task, files, RoundInputs(task, files.sample, RoundLabelFolder(base / "label")), ProgressDisplay()
    )


def labelled(run: Run, name: str) -> dict[str, dict[str, Any]]:
    assert isinstance(run.files, RoundFolder)
    path = run.files.label.folder / name
    return {str(r["query"]): dict(r) for _, r in rows_of(path)} if path.exists() else {}


def test_only_picks_are_asked_and_none_twice(api: FakeApi, tmp_path: Path) -> None:
    task_file = write_shop(tmp_path, LOG, api.url)
    assert in_process("label", task_file, "--runs", tmp_path / "runs").returncode == 0
    before, asked = (tmp_path / "runs" / "shop" / "label" / "labels.jsonl").read_text(), dict(api.calls)
    with Ledger(tmp_path / "runs" / "shop" / "ledger.sqlite") as ledger:
        attempt = ledger.select("SELECT MAX(id) FROM attempts")[0][0]
    run = a_round(tmp_path, task_file, [
        picked("new oat", "errors"), picked("new rye", "random", draws=2),
        picked("THING1  milk", "random", known=True, draws=1), picked("THING2 milk", "random", known=True, draws=3),
    ])
    done = execute(round_label.stage(attempt), run)
    assert dict(api.calls) == asked | {"new oat": 1, "new rye": 1}
    figures = done.figures
    assert [figures[k] for k in ("learned", "drawn", "again", "accepted", "failed")] == [1, 1, 0, 2, 0]
    rows = (tmp_path / "runs" / "shop" / "rounds" / "0001" / "label" / "labels.jsonl").read_text()
    assert rows.startswith(before)
    assert list(labelled(run, "labels.jsonl")) == [*LOG, "new oat"]
    assert list(labelled(run, "random.jsonl")) == ["new rye"]
    drawn = drawn_requests(run)
    # That of the other is known in another spelling, in which its label stands elsewhere.
    assert [(x.query, x.count) for x in drawn] == [("new rye", 2), ("THING2 milk", 3)]
    assert execute(round_label.stage(attempt), run).skipped
    assert dict(api.calls) == asked | {"new oat": 1, "new rye": 1}


def test_queries_without_an_answer_are_asked_again_but_do_not_hold_up_a_round(tmp_path: Path) -> None:
    faults = {"new 0": "500"}
    with FakeApi(lambda query, nth: faults.get(query, "ok")) as api:
        task_file = write_shop(tmp_path, LOG, api.url, max_attempts=1, repair=False)
        assert in_process("label", task_file, "--runs", tmp_path / "runs").returncode == 0
        run = a_round(tmp_path, task_file, [picked(f"new {i}", "errors") for i in range(4)])
        short = execute(round_label.stage(0), run).shortfall
        assert short is not None
        assert not short.fails
        assert not short.stops
        assert short.text.startswith("1 of 4 queries have no answer (most often: HTTP 500")
        faults.clear()
        asked = dict(api.calls)
        assert execute(round_label.stage(0), run).shortfall is None
        assert dict(api.calls) == asked | {"new 0": 2}
        assert labelled(run, "labels.jsonl")["new 0"]["status"] == "accepted"


def test_labels_that_the_catalogue_no_longer_confirms_are_judged_again(api: FakeApi, tmp_path: Path) -> None:
    task_file = write_shop(tmp_path, ["red milk", "red soap", "blue soap"], api.url)
    task = yaml.safe_load(task_file.read_text())
    task["roles"] = [{"name": "product", "catalogue": "brand", "grounded": True}]
    task["data"]["catalogue"] = "items.jsonl"
    task_file.write_text(yaml.safe_dump(task))
    items = [{"id": w, "title": w, "brand": w} for w in ("milk", "soap", "oat")]
    write_jsonl(tmp_path / "items.jsonl", items)
    assert in_process("label", task_file, "--runs", tmp_path / "runs").returncode == 0
    write_jsonl(tmp_path / "items.jsonl", [i for i in items if i["id"] != "soap"])
    asked = dict(api.calls)
    run = a_round(tmp_path, task_file, [picked("new oat", "errors")])
    figures = execute(round_label.stage(0), run).figures
    assert (figures["again"], figures["changed"]) == (2, 2)
    assert api.calls["red milk"] == asked["red milk"]
    found = labelled(run, "labels.jsonl")
    assert {q: r["status"] for q, r in found.items()} == {
        "red milk": "accepted", "red soap": "partial", "blue soap": "partial", "new oat": "accepted",
    }

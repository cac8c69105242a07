"""The teacher labels the gold test queries too, so that the student can be compared; nobody learns from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from limbeck.artefacts import LabelFolder
from limbeck.judging.offline_systems import teacher_labels
from limbeck.judging.report_content import teacher_remarks
from limbeck.pipeline import run_up_to, states
from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from task.files import read_json
from task.labels import Example
from task.load import load_task
from teacher.curriculum.rows import read
from teacher.ledger.ledger import Ledger
from tests.limbeck.stages.shop import write_shop
from tests.limbeck.test_cli import in_process as limbeck
from tests.llm_client.fake_api import FakeApi

QUERIES = [f"thing{i} milk" for i in range(12)]
GOLD = ["thing0 milk", "pear juice", "plum cake"]  # the first is in the log


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as running:
        yield running


def write_gold(folder: Path, queries: list[str]) -> None:
    rows = ({"query": q, "labels": [{"role": "product", "text": q.split()[1]}]} for q in queries)
    (folder / "gold.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


@pytest.fixture
def task_file(tmp_path: Path, api: FakeApi) -> Path:
    write_gold(tmp_path, GOLD)
    return write_shop(tmp_path, QUERIES, api.url, price_input_per_million=1.0, price_output_per_million=2.0,
                      max_attempts=1, repair=False)


def opened(task_file: Path, *overrides: str) -> Run:
    task = load_task(task_file, ("data.gold.test=gold.jsonl", *overrides)).task
    return Run.of(task, task_file.parent / "runs", ProgressDisplay())


def queries_in(file: Path) -> list[str]:
    return [json.loads(line)["query"] for line in file.read_text().splitlines()]


def test_gold_is_planned_asked_and_kept_and_stays_out_of_labels_and_curriculum(
    task_file: Path, api: FakeApi, tmp_path: Path
) -> None:
    command = (task_file, "--set", "data.gold.test=gold.jsonl", "--runs", tmp_path / "runs")
    assert "ask again: 14 calls" in limbeck("label", *command, "--plan").stdout
    assert "14" in next(x for x in limbeck("plan", *command).stdout.splitlines() if "│ calls" in x)
    done = limbeck("curriculum", *command)
    assert done.returncode == 0, done.stderr
    assert set(api.calls) == {*QUERIES, *GOLD}
    assert sum(api.calls.values()) == 14
    folder = LabelFolder(tmp_path / "runs" / "shop" / "label")
    assert queries_in(folder.labels) == QUERIES
    assert queries_in(folder.compared) == GOLD[1:]
    assert read_json(folder.folder / "manifest.json")["figures"]["accepted"] == 12
    with Ledger(tmp_path / "runs" / "shop" / "ledger.sqlite") as ledger:
        assert ledger.spent()["attempts"] == 14
        assert ledger.rows(GOLD).keys() == set(GOLD)
    learned = {r.example.query for s in ("train", "dev") for r in read(tmp_path / "runs" / "shop" / "curriculum", s)}
    assert learned == set(QUERIES) - {"thing0 milk"}
    teacher = teacher_labels(folder, [Example(q) for q in GOLD])
    assert teacher is not None
    assert [[x.text for x in r.labels] for r in teacher] == [["milk"], ["juice"], ["cake"]]
    assert not any("gold" in b["messages"][0]["content"] for b in api.bodies)


def test_other_gold_is_asked_about_and_the_stages_of_before_stand(task_file: Path, api: FakeApi) -> None:
    run = opened(task_file)
    first = run_up_to(run, "label")
    asked = sum(api.calls.values())
    write_gold(task_file.parent, [*GOLD, "new tea"])
    again = run_up_to(opened(task_file), "label")
    assert sum(api.calls.values()) == asked + 1
    assert again.digest == first.digest
    assert run_up_to(opened(task_file), "label").skipped
    # Only the rows that the report is about are paid for.
    write_gold(task_file.parent, [*GOLD, "new tea", "green tea"])
    run_up_to(opened(task_file, "eval.max_rows=4"), "label")
    assert sum(api.calls.values()) == asked + 1


def test_a_run_of_before_is_not_finished_and_asks_for_gold_alone(task_file: Path, api: FakeApi) -> None:
    run_up_to(opened(task_file), "label")
    folder = opened(task_file).files.label
    folder.compared.unlink()
    manifest = folder.folder / "manifest.json"
    content = read_json(manifest)
    del content["figures"]["compared"]
    manifest.write_text(json.dumps(content))
    with Ledger(opened(task_file).files.ledger) as ledger:
        for table in ("attempts", "rows"):
            ledger._transaction([(f"DELETE FROM {table} WHERE query IN (?, ?)", [tuple(GOLD[1:])])])
    (state,) = [s for s in states(opened(task_file)) if s.name == "label"]
    assert (state.state, state.why) == ("not finished", ("2 gold test queries were not given to the teacher yet",))
    asked = sum(api.calls.values())
    done = run_up_to(opened(task_file), "label")
    assert (sum(api.calls.values()), done.digest) == (asked + 2, content["digest"])
    assert queries_in(folder.compared) == GOLD[1:]


@pytest.mark.parametrize(("failing", "compared"), [(["plum cake"], True), (["pear juice", "plum cake"], False)])
def test_a_provider_that_does_not_answer_is_no_bad_teacher(
    task_file: Path, api: FakeApi, failing: list[str], compared: bool
) -> None:
    api.behaviour = lambda query, nth: "400" if query in failing else "ok"
    run = opened(task_file)
    run_up_to(run, "label")
    assert [x.fails for x in run.shortfalls] == [True]
    gold = run.inputs.judged
    assert (teacher_labels(run.files.label, gold) is not None) == compared
    (remark,) = teacher_remarks(run, gold)
    end = "it is compared on the others" if compared else "too many for a comparison with it"
    assert remark["text"] == f"the teacher has no answer to {len(failing)} of 3 gold queries: {end}"


def test_a_report_without_a_teacher_says_why(tmp_path: Path) -> None:
    write_gold(tmp_path, GOLD)
    config: dict[str, Any] = {
        "name": "imported", "roles": [{"name": "product"}], "teacher": {"backend": "labels"},
        "data": {"dir": ".", "labels": "gold.jsonl", "gold": {"test": "gold.jsonl"}},
    }
    (tmp_path / "task.yaml").write_text(json.dumps(config))
    run = opened(tmp_path / "task.yaml")
    run_up_to(run, "label")
    assert "labels were imported" in teacher_remarks(run, run.inputs.judged)[0]["text"]
    assert run_up_to(run, "label").skipped

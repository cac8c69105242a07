"""`limbeck export-labels` and `limbeck import`: the round trip through each tool as the docs print it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from task.labels import Label
from task.load import load_task
from task.readers import read_labels
from tests.documented import documented
from tests.limbeck.test_cli import in_process
from tests.task.exchange.conftest import shop_task

ROWS: list[dict[str, Any]] = [
    {"id": "q1", "query": "👶 oatly milk", "count": 3, "labels": [
        {"role": "brand", "text": "oatly", "start": 2, "end": 7, "confidence": 0.9}, {"role": "mark", "text": "vegan"},
    ]},
    {"id": "q2", "query": "gift card", "count": 1, "labels": [], "status": "uncertain"},
    {"id": "q3", "query": "oat milk", "count": 1, "labels": [
        {"role": "product type", "text": "oat milk", "start": 0, "end": 8}, {"role": "synonym", "text": "Hafermilch"},
    ]},
]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task file in the current folder, with `labels.jsonl`."""
    monkeypatch.chdir(tmp_path)
    shop = shop_task()
    path = tmp_path / "shop.yaml"
    roles = [r.model_dump(mode="json", exclude_defaults=True) for r in shop.roles]
    path.write_text(yaml.safe_dump({
        "name": "shop", "roles": roles, "data": {"dir": ".", "labels": "labels.jsonl"},
        "teacher": {"backend": "labels"}, "student": {"form": "write"},
    }))
    write_rows(tmp_path / "labels.jsonl", ROWS)
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def run(*words: str) -> str:
    done = in_process(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(path: str, task: Path) -> dict[str | None, tuple[str, int, tuple[Label, ...]]]:
    return {x.id: (x.query, x.count, x.labels) for x in read_labels(Path(path), load_task(task).task)}


def review(path: Path) -> None:
    """Make of predictions what two annotators and Label Studio make of them: Ana corrects one, Ben skips one."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    for number, row in enumerate(rows, 1):
        results = row["predictions"][0]["result"]
        row["id"] = number
        row["annotations"] = [{
            "completed_by": {"email": "ana"}, "result": results, "created_at": "2026-03-01T10:00:00Z",
            "was_cancelled": number == 2,
        }]
        if number == 3:
            changed = [x for x in results if x["type"] != "labels"]
            row["annotations"].append(
                {"completed_by": {"email": "ben"}, "result": changed, "created_at": "2026-03-01T11:00:00Z"}
            )
    Path("export.json").write_text(json.dumps(rows), encoding="utf-8")


def test_through_label_studio(task: Path) -> None:
    words = documented(
    "limbeck export-labels label-studio labels.jsonl --task TASK --out tasks.json --config-out view.xml --predictions",
    TASK=task)
    said = run(*words)
    assert "3 queries in tasks.json" in said
    assert "1 × the status partial or uncertain of a labelling job" in said
    assert "tasks.json: item 2: uncertain" in said
    assert Path("view.xml").read_text(encoding="utf-8").startswith("<View>")
    first = json.loads(Path("tasks.json").read_text(encoding="utf-8"))[0]["predictions"][0]
    assert (first["score"], first["result"][0]["score"]) == (0.9, 0.9)
    review(Path("tasks.json"))
    said = run(*documented(
        "limbeck import label-studio export.json --task TASK --out reviewed.jsonl --people people", TASK=task
    ))
    assert "3 queries in reviewed.jsonl (2 labelled, 1 skipped), with 3 labels by 2 people; 4 annotations read" in said
    assert "1 × an annotation of a query of which another one was taken" in said
    assert "export.json: task 3: ana: oat milk" in said
    with pytest.warns(match="1 of 3 rows have no labels"):
        found = read("reviewed.jsonl", task)
    assert found["q1"] == ("👶 oatly milk", 3, (Label("brand", "oatly", 2, 7), Label("mark", "vegan")))
    assert found["q3"] == ("oat milk", 1, (Label("synonym", "Hafermilch"),))
    assert read("people/ben.jsonl", task) == {"q3": found["q3"]}
    assert json.loads(Path("people/ana.jsonl").read_text().splitlines()[0])["at"] == "2026-03-01T10:00:00Z"


def test_through_doccano_and_conll(task: Path) -> None:
    with pytest.warns(match="partial or uncertain"):
        whole = read("labels.jsonl", task)
    run(*documented("limbeck export-labels doccano labels.jsonl --task TASK --out review.jsonl", TASK=task))
    said = run(*documented("limbeck import doccano review.jsonl --task TASK --out reviewed.jsonl", TASK=task))
    assert "Everything was carried over" in said
    assert read("reviewed.jsonl", task) == whole
    run(*documented("limbeck export-labels conll labels.jsonl --task TASK --out review.conll", TASK=task))
    run(*documented("limbeck import conll review.conll --task TASK --out from-conll.jsonl", TASK=task))
    assert read("from-conll.jsonl", task) == whole
    Path("corpus.conll").write_text("oatly NNP I-NP B-brand\nmilk NN I-NP O\n", encoding="utf-8")
    said = run(*documented(
        "limbeck import conll corpus.conll --task TASK --out corpus.jsonl --columns token,pos,chunk,tag", TASK=task
    ))
    assert "2 beside token and tag" in said
    assert read("corpus.jsonl", task) == {None: ("oatly milk", 1, (Label("brand", "oatly", 0, 5),))}


def test_one_persons_annotations(task: Path, fixtures: Path) -> None:
    export = str(fixtures / "label_studio.json")
    run("import", "label-studio", export, "--task", str(task), "--out", "ben.jsonl", "--person", "ben@example.com")
    assert set(read("ben.jsonl", task)) == {"q1", "q3"}
    done = in_process("import", "label-studio", export, "--task", task, "--out", "eve.jsonl", "--person", "eve")
    assert done.returncode == 2
    assert "--person: nobody of this name; found 'eve'; expected one of: ana@example.com, ben@" in done.stderr


@pytest.mark.parametrize(("words", "expected"), [
    (["import", "label-studio", "labels.jsonl", "--out", "labels.jsonl"], "--out: the file is there already"),
    (["import", "brat", "x", "--out", "y.jsonl"], "FORMAT: no such format; found 'brat'; expected one of: label-"),
    (["import", "doccano", "labels.jsonl", "--out", "y.csv"], "--out: not a file of JSON lines; found 'y.csv'"),
    (["import", "doccano", "none.jsonl", "--out", "y.jsonl"], "none.jsonl: no such file"),
    (["import", "doccano", "labels.jsonl", "--out", "y.jsonl", "--offsets", "bytes"], "--offsets: no such unit"),
    (["import", "conll", "labels.jsonl", "--out", "y.jsonl", "--columns", "x"], "--columns: not a list of columns"),
    (["import", "doccano", "labels.jsonl", "--out", "y.jsonl"], "labels.jsonl:1: text: no query"),
    (["export-labels", "doccano", "labels.jsonl", "--out", "y", "--layout", "x"], "--layout: no such layout"),
    (["export-labels", "conll", "labels.jsonl", "--out", "y", "--config-out", "z"], "--config-out: only Label Studio"),
])
def test_what_is_wrong_is_said_and_nothing_is_written(task: Path, words: list[str], expected: str) -> None:
    before = set(task.parent.iterdir())
    done = in_process(*words, "--task", task)
    assert (done.returncode, expected in done.stderr) == (2, True), done.stderr
    assert set(task.parent.iterdir()) == before


def test_predictions_alone_are_no_annotations(task: Path) -> None:
    run("export-labels", "label-studio", "labels.jsonl", "--task", str(task), "--out", "tasks.json", "--predictions")
    words = ["import", "label-studio", "tasks.json", "--task", str(task), "--out", "read.jsonl"]
    done = in_process(*words)
    assert done.returncode == 2
    assert "tasks.json: no annotations; found '3 × a prediction that nobody has reviewed" in done.stderr
    assert not Path("read.jsonl").exists()
    assert "3 queries in read.jsonl (3 machine)" in run(*words, "--predictions")


def test_a_broken_label_leaves_the_file_of_before(task: Path) -> None:
    Path("out.jsonl").write_text("before", encoding="utf-8")
    Path("export.jsonl").write_text('{"text": "a", "label": []}\n{"text": "b", "label": [[0, 1, "x"]]}\n')
    done = in_process("import", "doccano", "export.jsonl", "--task", task, "--out", "out.jsonl", "--overwrite")
    assert "export.jsonl:2: label.0: unknown role 'x'" in done.stderr
    assert Path("out.jsonl").read_text(encoding="utf-8") == "before"

"""The curriculum stage on imported labels."""

from __future__ import annotations

import json
from pathlib import Path

from task.labels import Label
from teacher.curriculum.rows import read
from teacher.ledger.reviews import Review, Reviews
from tests.limbeck.test_cli import in_process as limbeck
from tests.limbeck.test_cli import small_task


def test_outliers_are_learned_without_labels_and_a_change_of_them_is_told(tmp_path: Path) -> None:
    label = {"role": "brand", "text": "oat"}
    task = small_task(tmp_path, [{"query": q, "labels": [label]} for q in ("oat milk", "oat  milk")])
    outliers = tmp_path / "outliers.jsonl"
    outliers.write_text(json.dumps({"query": "turn on the light"}) + "\n")
    command = ("curriculum", task, "--set", "data.outliers=outliers.jsonl", "--runs", tmp_path / "runs")
    done = limbeck(*command)
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "runs" / "small" / "curriculum", "train")
    assert {r.example.query: len(r.example.labels) for r in rows} == {"oat milk": 1, "turn on the light": 0}
    assert "2 train and 0 dev rows; 1 left out: 1 " in done.stderr
    labelled = (tmp_path / "runs" / "small" / "label" / "labels.jsonl").read_text()
    assert "light" not in labelled
    outliers.write_text(json.dumps({"query": "play some jazz"}) + "\n")
    plan = limbeck("plan", *command[1:])
    assert "curriculum stale: outliers changed" in " ".join(plan.stdout.split())
    missing = limbeck("curriculum", task, "--set", "data.outliers=none.jsonl", "--runs", tmp_path / "runs")
    assert (missing.returncode, "none.jsonl: no such file" in missing.stderr) == (2, True)


def test_the_plan_has_the_rows_of_a_finished_curriculum_while_it_stands(tmp_path: Path) -> None:
    label = {"role": "brand", "text": "oat"}
    task = small_task(tmp_path, [{"query": f"oat milk {n}", "labels": [label]} for n in range(40)])
    command = (task, "--runs", tmp_path / "runs")
    assert "about 30 rows" in limbeck("plan", *command).stdout
    done = limbeck("curriculum", *command)
    assert done.returncode == 0, done.stderr
    rows = len(read(tmp_path / "runs" / "small" / "curriculum", "train"))
    assert rows != 30
    assert f"{rows} rows in the curriculum" in limbeck("plan", *command).stdout
    assert "about 30 rows" in limbeck("plan", *command, "--set", "curriculum.dev_fraction=0.4").stdout


def test_decisions_of_people_make_the_curriculum_again_and_are_counted(tmp_path: Path) -> None:
    label = {"role": "brand", "text": "oat"}
    task = small_task(tmp_path, [{"query": q, "labels": [label]} for q in ("oat milk", "oat bread", "oat x")])
    command = ("curriculum", task, "--runs", tmp_path / "runs")
    assert limbeck(*command).returncode == 0
    run = tmp_path / "runs" / "small"
    shown, right = (Label("brand", "oat", 0, 3),), (Label("brand", "oat milk", 0, 8),)
    with Reviews(run / "ledger.sqlite") as reviews:
        for n, (query, decision, labels) in enumerate((
            ("oat milk", "correct", right), ("oat bread", "accept", shown), ("oat x", "reject", shown)
        )):
            reviews.add(Review(
                token=str(n), query=query, count=1, queue="uncertain", person="ada", decision=decision,  # type: ignore[arg-type]
                labels=labels, before=shown, created=1.0,
            ))
    assert "curriculum stale: decisions of people changed" in " ".join(limbeck("plan", *command[1:]).stdout.split())
    done = limbeck(*command)
    assert done.returncode == 0, done.stderr
    assert {r.example.query: r.example.labels for r in read(run / "curriculum", "train")} == {
        "oat milk": right, "oat bread": shown,
    }
    manifest = (run / "curriculum" / "manifest.json").read_text()
    decisions = json.loads(manifest)["figures"]["decisions"]
    assert {k: decisions[k] for k in ("people", "queries", "confirmed", "corrected", "rejected", "gold_rows")} == {
        "people": ["ada"], "queries": 3, "confirmed": 1, "corrected": 1, "rejected": 1, "gold_rows": 0,
    }
    assert decisions["roles"] == {"brand": {"added": 1, "removed": 1}}
    assert decisions["examples"][0]["query"] == "oat milk"
    assert limbeck(*command).returncode == 0
    assert (run / "curriculum" / "manifest.json").read_text() == manifest

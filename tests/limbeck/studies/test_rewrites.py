"""`limbeck rewrites` on a small shop: the teacher's rewrites, and a file of predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from limbeck.cli import app
from task.errors import InputError
from task.files import read_json
from tests.documented import documented

TITLES = ["oat drink", "soy drink", "rice drink", "cream cheese", "rye bread", "black tea"]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Customers call drinks milk, and buy them; the labels say so for one of two."""
    synonym = [{"role": "synonym", "text": "oat drink"}]
    write_rows(tmp_path / "items.jsonl", [{"id": t, "title": t} for t in TITLES])
    write_rows(tmp_path / "labels.jsonl", [
        {"query": "oat milk", "labels": synonym}, {"query": "soya milk", "labels": []}, {"query": "tea", "labels": []},
    ])
    write_rows(tmp_path / "bought.jsonl", [
        {"query": "oat milk", "item_id": "oat drink", "count": 3}, {"query": "soya milk", "item_id": "soy drink"},
        {"query": "tea", "item_id": "black tea"},
    ])
    write_rows(tmp_path / "gold.jsonl", [{"query": "oat milk", "labels": synonym}])
    write_rows(tmp_path / "predictions.jsonl", [
        {"query": "oat milk", "labels": [{"role": "synonym", "text": "rye bread"}]},
        {"query": "soya milk", "labels": [{"role": "synonym", "text": "soy drink"}]},
    ])
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump({
        "name": "shop", "roles": [{"name": "synonym", "kind": "text", "grounded": True}],
        "data": {"dir": ".", "labels": "labels.jsonl", "catalogue": "items.jsonl", "conversions": "bought.jsonl",
                 "gold": {"test": "gold.jsonl"}},
        "teacher": {"backend": "labels"}, "student": {"form": "json"}, "eval": {"resamples": 200},
    }), encoding="utf-8")
    return path


def limbeck(*words: str, runs: Path) -> str:
    result = CliRunner().invoke(app, [*words, "--runs", str(runs)])
    assert result.exit_code == 0, result.output
    return result.output


def test_rewrites_find_what_was_bought(shop: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    limbeck("label", str(shop), runs=runs)
    shown = limbeck(*documented("limbeck rewrites TASK", TASK=shop), runs=runs)
    found = read_json(runs / "shop" / "rewrites" / "rewrites.json")
    at = found["types"]["synonym"]["at"]["10"]
    # Alone, `oat milk` finds its drink by a word and `tea` the tea; `soya milk` finds nothing, and has no rewrite.
    assert [at[k]["value"] for k in ("alone", "rewritten")] == [pytest.approx(2 / 3, abs=1e-6)] * 2
    assert found["types"]["synonym"]["coverage"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert found["gold"]["synonym"]["precision"]["value"] == 1.0
    assert "| synonym | 33.3" in shown
    for search, alone in (("bm25", 0.5), ("hybrid", 1.0)):  # six items: embeddings find all of them
        limbeck(
            "rewrites", str(shop), "--predictions", str(tmp_path / "predictions.jsonl"), "--search", search, runs=runs
        )
        found = read_json(runs / "shop" / "rewrites" / "rewrites.json")
        at = found["types"]["synonym"]["at"]["10"]
        assert [at["alone"]["value"], at["rewritten"]["value"]] == [alone, 1.0]
        assert found["gold"]["synonym"]["precision"]["value"] == 0.0


def test_what_cannot_be_measured_is_told(shop: Path, tmp_path: Path) -> None:
    for words, said in (
        (("--search", "google"), "bm25 or hybrid"), (("--set", "data.conversions=null"), "nothing was bought"),
        (("--set", "roles=[{name: product}]", "--set", "student.form=read"), "no role of `kind: text`"),
    ):
        result = CliRunner().invoke(
            app, ["rewrites", str(shop), "--runs", str(tmp_path / "runs"),
                  "--predictions", str(tmp_path / "predictions.jsonl"), *words],
        )
        assert isinstance(result.exception, InputError)
        assert said in str(result.exception)

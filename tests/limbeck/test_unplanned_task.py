"""A task in another domain and script runs by configuration only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from task.codec import Codec
from task.files import read_json
from task.load import load_task
from task.readers import read_labels
from task.tokenizer import FastTokenizer
from tests.conftest import FIXTURES

TASK = FIXTURES / "clinic.yaml"

# A category and a rewrite, which the task gains by configuration: where a symptom belongs, and what else it is called.
BRANCHES = {
    "咳嗽": "内科 > 呼吸 > 咳嗽", "发烧": "内科 > 全身 > 发烧", "恶心": "内科 > 消化 > 恶心", "头痛": "神经科 > 头痛",
}
OTHER_WORDS = {"咳嗽": ("咳", "干咳"), "发烧": ("发热",), "恶心": ("想吐", "反胃"), "头痛": ("头疼",)}


@pytest.fixture(scope="module")
def understood(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task file with the two roles more, beside its data, which has their labels."""
    folder = tmp_path_factory.mktemp("clinic")
    (folder / "clinic").mkdir()
    for name in ("train", "test"):
        lines = []
        for line in (FIXTURES / "clinic" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            symptom = next((x["text"] for x in row["labels"] if x["role"] == "Symptom"), None)
            if symptom is not None:
                row["labels"].append({"role": "Department", "text": BRANCHES[symptom]})
                row["labels"] += [{"role": "Other Words", "text": x} for x in OTHER_WORDS[symptom]]
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        (folder / "clinic" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    task = yaml.safe_load(TASK.read_text(encoding="utf-8"))
    task["roles"] += [
        {"name": "Department", "kind": "closed", "multiple": False, "values": sorted(BRANCHES.values()),
         "separator": " > "},
        {"name": "Other Words", "kind": "text", "most": 2},
    ]
    task["student"] |= {
        "form": "write", "lora": {"rank": 32, "alpha": 64}, "learning_rate": 0.004, "max_steps": 250, "epochs": 80,
        "eval_every": 250, "save_every": 250,
    }
    (folder / "clinic.yaml").write_text(yaml.safe_dump(task, allow_unicode=True), encoding="utf-8")
    return folder / "clinic.yaml"


@pytest.mark.parametrize("form", ["write", "json"])
def test_a_category_and_a_rewrite_round_trip(tokenizer: FastTokenizer, understood: Path, form: str) -> None:
    task = load_task(understood).task
    rows = [r for name in ("train", "test") for r in read_labels(understood.parent / "clinic" / f"{name}.jsonl", task)]
    codec = Codec.compile(task, rows, tokenizer, form)
    assert {x.role for r in rows for x in r.labels} >= {"Department", "Other Words"}
    for row in rows:
        encoded = codec.encode(row, tokenizer)
        if form == "write":
            symbols = codec.symbol_count(row.query)
            written = codec.written_texts(
                encoded.targets[symbols:], [-0.01] * (len(encoded.targets) - symbols), tokenizer
            )
            output = (encoded.targets[:symbols], [-0.01] * symbols, written)
            found = codec.decode(row.query, output, task)
        else:
            found = codec.decode(row.query, (tokenizer.decode(encoded.targets[:-1]), True), task)
        assert found.fault is None
        assert {x.key for x in found.labels} == {x.key for x in row.labels}


@pytest.mark.parametrize("form", ["read", "write", "json"])
def test_every_labelling_round_trips(tokenizer: FastTokenizer, form: str) -> None:
    task = load_task(TASK).task
    assert len(task.roles) == 50
    rows = [r for name in ("train", "test") for r in read_labels(FIXTURES / "clinic" / f"{name}.jsonl", task)]
    codec = Codec.compile(task, rows, tokenizer, form)
    assert codec.segmentation == "characters"
    index = {t: i for i, t in enumerate(codec.symbol_ids)}
    for row in rows:
        encoded = codec.encode(row, tokenizer)
        if form == "read":
            scores = np.full((len(encoded.targets), len(codec.symbol_ids)), -30.0)
            scores[np.arange(len(encoded.targets)), [index[t] for t in encoded.targets]] = 0.0
            found = codec.decode_scores(row.query, scores)
        elif form == "write":
            found = codec.decode_symbols(row.query, encoded.targets, [-0.01] * len(encoded.targets))
        else:
            found = codec.decode(row.query, (tokenizer.decode(encoded.targets[:-1]), True), task).labels
        assert [x.key for x in found] == [x.key for x in row.labels]


@pytest.mark.slow
def test_it_runs_end_to_end_with_ray_and_vllm(tmp_path: Path, tiny_llama: Path, understood: Path) -> None:
    """Words, a category and rewrites of one student, trained, merged, served and evaluated."""
    done = subprocess.run(
        [sys.executable, "-m", "limbeck", "run", str(understood), "--runs", str(tmp_path), "--set",
         f"student.base={tiny_llama}"],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = read_json(tmp_path / "clinic" / "evaluate" / "report.json")
    served = report["systems"]["student, merged and served"]
    assert served["rows"] == 30
    roles = {x["role"] for line in (tmp_path / "clinic" / "evaluate" / "predictions").glob("*served.jsonl")
             for row in line.read_text().splitlines() for x in json.loads(row)["labels"]}
    assert {"Triage Level", "Department", "Other Words"} <= roles
    assert served["value"]["f1"]["value"] > report["systems"]["base, not tuned"]["value"]["f1"]["value"]

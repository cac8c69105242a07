"""A task in another domain and script runs by configuration only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from task.codec import Codec
from task.files import read_json
from task.load import load_task
from task.readers import read_labels
from task.tokenizer import FastTokenizer
from tests.conftest import FIXTURES

TASK = FIXTURES / "clinic.yaml"


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
def test_it_runs_end_to_end_with_ray_and_vllm(tmp_path: Path, tiny_llama: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "limbeck", "run", str(TASK), "--runs", str(tmp_path), "--set",
         f"student.base={tiny_llama}"],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = read_json(tmp_path / "clinic" / "evaluate" / "report.json")
    served = report["systems"]["student, merged and served"]
    assert served["rows"] == 30
    roles = {x["role"] for line in (tmp_path / "clinic" / "evaluate" / "predictions").glob("*served.jsonl")
             for row in line.read_text().splitlines() for x in json.loads(row)["labels"]}
    assert "Triage Level" in roles
    assert served["value"]["f1"]["value"] > report["systems"]["base, not tuned"]["value"]["f1"]["value"]

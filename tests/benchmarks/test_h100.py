"""The GPU scripts run at tiny size on a CPU, so that they work on the day that there is a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from task.files import read_json


@pytest.mark.slow
def test_it_trains_merges_and_measures_both_kinds(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    line = [sys.executable, "-m", "benchmarks.h100_student", "--size", "tiny", "--steps", "4", "--batch", "8"]
    subprocess.run([*line, "--device", "cpu", "--out", str(out)], check=True, timeout=300)
    found = read_json(out)
    assert set(found["kinds"]) == {"lora", "qlora"}
    for kind in found["kinds"].values():
        assert kind["matrices"] == 14
        assert 0 < kind["spread"][0] <= kind["tokens_per_s"] <= kind["spread"][1]
        assert 0 < kind["share_of_matmul_rate"] < 1
        assert set(kind["planned_gib"]) == {"weights", "adapter, gradient and moments", "activations"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_serves_each_form_and_each_kind_of_weights(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    line = [sys.executable, "-m", "benchmarks.h100_serving", "--size", "tiny", "--seconds", "4", "--rates", "5"]
    line += ["--lengths", "4", "--precisions", "bf16", "--eager", "--out", str(out)]
    line += ["--engines", "read-merged", "write-adapter"]
    subprocess.run(line, check=True, timeout=580)
    engines = read_json(out)["engines"]
    assert [(e["form"], e["weights"]) for e in engines] == [
        ("read", "merged"), ("write", "adapter"),
    ]
    for engine in engines:
        (row,) = engine["rows"]
        assert row["errors"] == 0
        assert row["count"] > 5
        assert row["p50_ms"]["value"] > 0

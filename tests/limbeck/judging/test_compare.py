"""Systems side by side: prediction files, and services over a local server that answers as ours does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck.judging.compare import compare, named
from task.errors import InputError
from task.files import read_json, write_jsonl
from task.progress import quiet
from tests.eval.test_matching import random_rows
from tests.limbeck.test_cli import in_process


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    gold, predicted = random_rows(0, 150)
    half = [g if i % 2 else p for i, (g, p) in enumerate(zip(gold, predicted, strict=True))]
    out = {}
    for name, rows in (("gold", gold), ("bad", predicted), ("half", half)):
        out[name] = tmp_path / f"{name}.jsonl"
        write_jsonl(out[name], (r.to_json() for r in rows))
    return out


def test_files_are_compared_with_the_first(files: dict[str, Path]) -> None:
    systems = named([f"old={files['bad']}", f"new={files['half']}"])
    found = compare(systems, files["gold"], quiet, resamples=200, pairs=50)
    old, new = found["systems"]
    assert (old["less_first"], old["latency"], new["best"]) == (None, None, False)
    assert new["less_first"]["f1"]["low"] > 0
    assert new["f1"]["value"] > old["f1"]["value"]


def test_what_is_nothing_to_compare_is_said(tmp_path: Path, files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="nothing to compare"):
        named([str(tmp_path / "none")])
    with pytest.raises(InputError, match="two systems have one name"):
        named([f"a={files['bad']}", f"a={files['half']}"])
    assert [s.kind for s in named(["http://127.0.0.1:1", str(files["bad"])])] == ["endpoint", "predictions"]
    assert named(["http://h/v1?a=b"])[0].source == "http://h/v1?a=b"


def test_the_command_writes_its_pages(tmp_path: Path, files: dict[str, Path]) -> None:
    done = in_process(
        "compare", f"old={files['bad']}", f"new={files['half']}", "--gold", files["gold"], "--out", tmp_path / "out",
        "--resamples", "100",
    )
    assert done.returncode == 0, done.stderr
    assert "| new |" in done.stdout
    assert read_json(tmp_path / "out" / "comparison.json")["first"] == "old"
    assert (tmp_path / "out" / "comparison.html").exists()


@pytest.mark.alone
def test_bench_measures_a_server_and_says_by_its_exit_code_what_came_of_it(tmp_path: Path) -> None:
    from tests.eval.known_server import known

    queries = tmp_path / "queries.jsonl"
    queries.write_text("".join(json.dumps({"query": f"oat milk {i}"}) + "\n" for i in range(200)))
    common = ("--queries", queries, "--rate", "80", "--seconds", "0.7", "--repeats", "2", "--percentile", "p50")
    with known("constant", 0.01) as url:
        good = in_process("bench", url, *common, "--slo-ms", "200", "--out", tmp_path / "out")
        missed = in_process("bench", url, *common, "--slo-ms", "5")
        few = in_process("bench", url, *common[:-2], "--slo-ms", "200")  # its percentile is the p99
        bad = in_process("bench", url, *common, "--api", "sing")
    assert good.returncode == 0, good.stderr
    assert (tmp_path / "out" / "bench.html").exists()
    assert "objective: at most 200 ms" in good.stdout
    assert missed.returncode == 1, missed.stdout + missed.stderr
    assert few.returncode == 3, few.stdout + few.stderr
    assert "cannot be said" in few.stdout
    assert "a p99 needs 299. Raise --seconds or --repeats" in " ".join(few.stdout.split())
    assert (bad.returncode, "one of: label, chat" in bad.stderr) == (2, True)
    with known("fail", 4) as url:
        some = in_process("bench", url, *common)
    assert "requests got no answer: they count as infinitely slow" in some.stdout
    nobody = in_process("bench", "http://127.0.0.1:9", *common)
    assert (nobody.returncode, "no request was answered" in nobody.stderr) == (2, True)

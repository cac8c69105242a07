"""Rounds with every real component; captures are written as a service writes them, and the last test has one."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from filelock import FileLock

from serving.client import served
from serving.release.pointer import read_pointer, release
from task.captures import FOLDER, Capture, file_of
from task.files import read_json, write_jsonl
from task.serving_settings import Change
from task.table_files import rows_of
from tests.conftest import FIXTURES
from tests.documented import documented

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
DAY = 86_400.0
LABELS = 40


def limbeck(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "limbeck", *map(str, arguments)], capture_output=True, text=True, check=False, cwd=folder
    )


def captured(state: Path, queries: list[str], bundle: str, *, days: float = 7, probability: float = 0.7) -> None:
    """What a service has captured until now, `days` long."""
    rng, now = random.Random(5), time.time()
    rows = [
        Capture(rng.choice(queries), None, 1, 3.0, "student", "ok", bundle, "round-market", probability,
                {"product": 1}, now - rng.random() * days * DAY) for _ in range(400)
    ]
    for file in sorted({file_of(state / FOLDER, c.at) for c in rows}):
        write_jsonl(file, (c.row() for c in rows if file_of(state / FOLDER, c.at) == file))


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, embedder_folder: Path) -> Path:
    """A folder with a task, its run, its released student, and what a service of it captured."""
    folder = tmp_path_factory.mktemp("rounds")
    task = {
        "extends": str(FIXTURES / "tiny-market.yaml"), "name": "round-market",
        "data": {"sample": "market", "sample_queries": 300, "sample_items": 500},
        "teacher": {"retrieval": {"embedder": str(embedder_folder)}},
        "student": {"base": str(tiny_llama), "max_steps": 12, "eval_every": 100, "learning_rate": 0.003,
                    "lora": {"rank": 8, "alpha": 16}},
        "serving": {"self_check": 0.0, "max_model_len": 256, "quantization": "none"},
        "eval": {"max_rows": 60},
        "gates": {"engine_label_agreement": 0.5, "merge_label_agreement": 0.5, "released_margin": None,
                  "max_slower": None, "max_invalid": None, "traffic_margin": 0.5},
        "rounds": {"labels": LABELS, "student": {"max_steps": 6}},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    done = limbeck("bundle", "task.yaml", folder=folder)
    assert done.returncode == 0, done.stderr[-4000:]
    bundle = folder / "runs" / "round-market" / "bundle" / "bundle"
    pointer = release(folder / "live.json", bundle=bundle, change=Change(), ungated=True)
    known = [str(r["query"]) for _, r in rows_of(folder / "runs" / "round-market" / "label" / "labels.jsonl")]
    new = [f"{q} {word}" for q in known[:60] for word in ("zog", "deluxe")]
    captured(folder / "limbeck-serve", [*known[:40], *new], pointer.current.id)
    return folder


@pytest.fixture
def copy(market: Path, tmp_path: Path) -> Path:
    """A copy, for a test that changes it."""
    shutil.copytree(market, tmp_path / "copy")
    return tmp_path / "copy"


ROUND = documented("limbeck round TASK --pointer live.json --state limbeck-serve", TASK="task.yaml")


def a_round(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return limbeck(*ROUND, *more, folder=folder)


def rows(path: Path) -> list[dict[str, Any]]:
    return [dict(r) for _, r in rows_of(path)]


@pytest.fixture(scope="module")
def ended(market: Path) -> Path:
    """The first round: killed after its labels and in the middle of its training, and then gone on with."""
    base, one = market / "runs" / "round-market", market / "runs" / "round-market" / "rounds" / "0001"
    for mark in (one / "label" / "manifest.json", one / ".train.tmp" / "history.jsonl"):
        process = subprocess.Popen([sys.executable, "-m", "limbeck", *ROUND], cwd=market, start_new_session=True)
        until = time.monotonic() + 300
        while not mark.exists():
            assert process.poll() is None, "the round ended before it could be killed"
            assert time.monotonic() < until
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = (base / "label" / "labels.jsonl").read_bytes()
    done = a_round(market)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Round 1: released." in done.stdout
    assert (base / "label" / "labels.jsonl").read_bytes() == before
    return market


def test_the_new_student_is_released_and_began_from_the_old_one(ended: Path) -> None:
    base, one = ended / "runs" / "round-market", ended / "runs" / "round-market" / "rounds" / "0001"
    pointer = read_pointer(ended / "live.json")
    assert pointer.current.id == read_json(one / "outcome.json")["bundle"]
    assert pointer.previous is not None
    assert pointer.previous.id == read_json(one / "round.json")["student"]
    trained = read_json(one / "train" / "manifest.json")
    assert trained["inputs"]["init_adapter"] == read_json(base / "train" / "manifest.json")["outputs"][
        "adapter/adapter_model.safetensors"
    ]
    assert trained["figures"]["steps"] == 6


def test_old_labels_stay_and_only_picks_are_labelled_once(ended: Path) -> None:
    base, one = ended / "runs" / "round-market", ended / "runs" / "round-market" / "rounds" / "0001"
    picked = rows(one / "picks" / "picks.jsonl")
    learned = [p["query"] for p in picked if p["why"] == "errors"]
    drawn = [p["query"] for p in picked if p["why"] == "random" and not p["known"]]
    assert 0 < len(drawn) <= LABELS // 4
    assert len(learned) + len(drawn) == LABELS
    old, new = rows(base / "label" / "labels.jsonl"), rows(one / "label" / "labels.jsonl")
    assert new[: len(old)] == old
    assert [r["query"] for r in new[len(old) :]] == learned
    assert [r["query"] for r in rows(one / "label" / "random.jsonl")] == drawn


def test_nothing_is_learned_from_the_draws(ended: Path) -> None:
    from teacher.curriculum.rows import read

    one = ended / "runs" / "round-market" / "rounds" / "0001"
    drawn = {r["query"] for r in rows(one / "label" / "random.jsonl")}
    learned = {r.example.query for part in ("train", "dev") for r in read(one / "curriculum", part)}
    assert learned.isdisjoint(drawn)
    picked = {p["query"] for p in rows(one / "picks" / "picks.jsonl") if p["why"] == "errors"}
    assert learned & picked


def test_both_students_are_judged_on_gold_and_on_each_draw_as_often_as_it_was_drawn(ended: Path) -> None:
    one = ended / "runs" / "round-market" / "rounds" / "0001"
    found = read_json(one / "gate" / "gate.json")
    assert found["gold"]["rows"] == len(rows(one / "sample" / "gold_test.jsonl"))
    assert found["drawn"]["rows"] == LABELS // 4
    for part in ("gold", "drawn"):
        assert all(found[part][k]["value"] is not None for k in ("new", "released", "difference"))
    assert {"traffic_margin", "engine_label_agreement"} <= {c["rule"] for c in found["checks"]}


def test_the_rounds_are_listed_with_a_page(ended: Path) -> None:
    done = limbeck(*documented("limbeck rounds TASK", TASK="task.yaml"), "--json", "out.json", folder=ended)
    assert done.returncode == 0, done.stderr
    assert "| 1 |" in done.stdout
    row = read_json(ended / "out.json")["rounds"][0]
    assert (row["ending"], row["labels"], row["cost"]) == ("released", LABELS, 0.0)
    assert row["begins_from"] == "adapter"
    page = (ended / "runs" / "round-market" / "rounds" / "rounds.html").read_text()
    assert "Round 1: <span" in page
    assert "<svg" in page


def test_the_next_round_learns_from_the_draws_and_one_that_is_refused_leaves_the_old_student(ended: Path) -> None:
    released = read_pointer(ended / "live.json").current.id
    first = ended / "runs" / "round-market" / "rounds" / "0001"
    done = a_round(ended)  # nothing was captured since the first
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Round 2: not worth it. no query captured since the last round" in done.stdout
    learned = rows(first / "label" / "labels.jsonl")[:50]
    captured(ended / "limbeck-serve", [f"{q['query']} fresh" for q in learned], released, days=1e-5)
    done = a_round(ended, "--set", "gates.min_f1=1.0", "--set", "rounds.start=scratch")
    assert done.returncode == 1, done.stderr[-3000:]
    assert "refused. gate: F1" in done.stdout
    assert read_pointer(ended / "live.json").current.id == released
    second = ended / "runs" / "round-market" / "rounds" / "0003"
    drawn = {r["query"] for r in rows(first / "label" / "random.jsonl")}
    assert drawn <= {r["query"] for r in rows(second / "label" / "labels.jsonl")}
    assert "init_adapter" not in read_json(second / "train" / "manifest.json")["inputs"]
    opening = read_json(second / "round.json")
    assert opening["origin"] == 1
    assert opening["since"] == read_json(first / "round.json")["until"]
    assert not (first / "merge").exists()
    done = a_round(ended, "--if-worth")  # what the refused round had picked is picked again by the next one
    assert done.returncode == 0, done.stderr[-3000:]
    third = read_json(ended / "runs" / "round-market" / "rounds" / "0004" / "round.json")
    assert third["origin"] == 1
    assert third["since"] == opening["since"]
    assert "Round 4: not worth it. drift is not measured" in done.stdout


def test_a_watch_looks_and_is_ended_by_a_signal(copy: Path) -> None:
    before = list(copy.rglob("round.json"))
    command = [sys.executable, "-m", "limbeck", *documented("limbeck watch TASK", TASK="task.yaml")]
    with subprocess.Popen(command, cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        told = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert "no round: drift is not measured" in told
    assert list(copy.rglob("round.json")) == before  # a look in which nothing happened leaves nothing


def test_two_rounds_at_once_are_one_too_many(copy: Path) -> None:
    parent = copy / "runs" / "round-market" / "rounds"
    parent.mkdir(exist_ok=True)
    with FileLock(parent / "lock"):
        done = a_round(copy)
    assert done.returncode == 2
    assert "a round of this task is running" in done.stderr


def test_a_student_of_no_round_is_refused_before_anything_is_done(copy: Path) -> None:
    pointer = json.loads((copy / "live.json").read_text())
    pointer["current"]["id"] = "another"
    (copy / "live.json").write_text(json.dumps(pointer))
    before = Counter(p.name for p in (copy / "runs" / "round-market").rglob("round.json"))
    done = a_round(copy)
    assert done.returncode == 2
    assert "neither this run's nor one of its rounds'" in done.stderr
    assert Counter(p.name for p in (copy / "runs" / "round-market").rglob("round.json")) == before


@contextmanager
def traffic(url: str, queries: list[str]) -> Iterator[Counter[int]]:
    """Requests, one after another, each query to the student; gives how many were answered with each status."""
    statuses: Counter[int] = Counter()
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            for query in itertools.cycle(queries):
                if ended.is_set():
                    return
                body = {"query": query, "use_cache": False}
                statuses[client.post(f"{url}/v1/label", json=body).status_code] += 1
                time.sleep(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
    finally:
        ended.set()
        thread.join()


def test_a_service_refuses_one_student_and_changes_to_the_next_without_a_failed_request(ended: Path) -> None:
    first = read_pointer(ended / "live.json").current.id
    learned = [r["query"] for r in rows(ended / "runs" / "round-market" / "rounds" / "0001" / "label" / "labels.jsonl")]
    canary = ["--set", "serving.change={canary: 0.5, canary_s: 30, bounds: {slower: null, least: 20}}"]
    with served(ended / "live.json", state=ended / "limbeck-serve") as url, traffic(url, learned) as statuses:
        # Its gate would refuse a student that abstains, if it looked.
        abstains = "serving.certain={abstain: 0.999, uncertain: 0.999}"
        done = a_round(ended, *canary, "--set", abstains, "--set", "gates.engine_label_agreement=null")
        assert done.returncode == 1, done.stderr[-3000:]
        assert "abstained on" in done.stdout
        assert read_pointer(ended / "live.json").current.id == first
        done = a_round(ended, *canary)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "is served" in done.stdout
        second = read_pointer(ended / "live.json").current.id
        assert second != first
        assert httpx.get(f"{url}/readyz").json()["status"] == "ready"
        assert read_json(ended / "limbeck-serve" / "status.json")["tasks"]["round-market"]["active"]["bundle"] == second
    assert statuses.keys() == {200}
    assert statuses[200] > 200

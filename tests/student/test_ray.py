"""The training run under Ray for real: two workers against one, and a worker that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

from student.job import Job
from student.launch import launch
from task.files import read_json
from task.tokens import FastTokenizer
from tests.student.test_training import job, losses, weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def ancestors(pid: int) -> list[int]:
    """Parent processes, nearest first."""
    out = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        out.append(pid)
    return out


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, tokenizer: FastTokenizer) -> Job:
    """An unbroken run with one worker."""
    made = job(tiny_llama, tmp_path_factory.mktemp("one"), tokenizer, max_steps=50, cpus_per_worker=1)
    launch(made)
    return made


def test_two_workers_equal_one_on_uneven_lengths(one: Job, tiny_llama: Path, tmp_path: Path,
                                                 tokenizer: FastTokenizer) -> None:
    launch(job(tiny_llama, tmp_path, tokenizer, max_steps=50, workers=2, cpus_per_worker=1))
    assert losses(tmp_path) == pytest.approx(losses(one.folder), abs=1e-4)
    assert read_json(tmp_path / "order.json") == read_json(one.folder / "order.json")


def test_a_killed_worker_goes_on_as_if_nothing_had_happened(one: Job, tiny_llama: Path, tmp_path: Path,
                                                            tokenizer: FastTokenizer) -> None:
    made = job(tiny_llama, tmp_path, tokenizer, max_steps=50, cpus_per_worker=1)
    killed: list[int] = []

    def kill() -> None:
        while not (tmp_path / "checkpoints" / "step-000012").exists():
            time.sleep(0.02)
        found = subprocess.run(["pgrep", "-f", "ray::RayTrainWorker"], capture_output=True, text=True, check=False)
        ours = {p for p in map(int, found.stdout.split()) if os.getpid() in ancestors(p)}
        for pid in ours:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    launch(made)
    assert killed
    steps = [json.loads(x)["step"] for x in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 51))
    assert losses(tmp_path) == losses(one.folder)
    a, b = weights(one.folder), weights(tmp_path)
    assert all(torch.equal(a[k], b[k]) for k in a)

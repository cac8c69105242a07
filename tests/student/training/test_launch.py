"""The training run under Ray: two workers against one, and a worker that is killed."""

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

from student.training.job import TrainingJob
from student.training.launch import launch
from student.training.train import train
from task.files import read_json
from task.tokenizer import FastTokenizer
from tests.processes import ancestors
from tests.student.training.test_train import job, losses, weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.usefixtures("shared_ray")]


@pytest.fixture(scope="module")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, tokenizer: FastTokenizer, shared_ray: None
) -> dict[int, TrainingJob]:
    """Uninterrupted runs, by their number of workers: one in this process, two under Ray."""
    out = {}
    for workers in (1, 2):
        folder = tmp_path_factory.mktemp(f"workers-{workers}")
        out[workers] = job(tiny_llama, folder, tokenizer, max_steps=50, workers=workers, cpus_per_worker=1)
        if workers == 1:
            train(out[workers], threads=1)
        else:
            launch(out[workers])
    return out


def test_two_workers_equal_one_on_uneven_lengths(unbroken: dict[int, TrainingJob]) -> None:
    one, two = unbroken[1].folder, unbroken[2].folder
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert read_json(two / "order.json") == read_json(one / "order.json")
    assert dev_f1(two) == dev_f1(one)  # each of the two labels its share of the dev rows


def dev_f1(folder: Path) -> list[float]:
    steps = [json.loads(x) for x in (folder / "history.jsonl").read_text().splitlines()]
    return [x["dev_f1"] for x in steps if "dev_f1" in x]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_goes_on_as_if_nothing_had_happened(
    workers: int, unbroken: dict[int, TrainingJob], tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer
) -> None:
    """One worker is killed; where there is another it hangs in the next reduction until Ray ends it."""
    made = job(tiny_llama, tmp_path, tokenizer, max_steps=50, workers=workers, cpus_per_worker=1)
    killed: list[int] = []
    niceness: list[int] = []

    def kill() -> None:
        while not (tmp_path / "checkpoints" / "step-000012").exists():
            time.sleep(0.02)
        found = subprocess.run(["pgrep", "-f", "ray::RayTrainWorker"], capture_output=True, text=True, check=False)
        ours = [p for p in map(int, found.stdout.split()) if os.getpid() in ancestors(p)]
        niceness.append(os.getpriority(os.PRIO_PROCESS, ours[-1]))
        os.kill(ours[-1], signal.SIGKILL)
        killed.append(ours[-1])

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    launch(made)
    assert killed
    assert niceness == [os.getpriority(os.PRIO_PROCESS, 0)], "Ray's own processes come before the training"
    steps = [json.loads(x)["step"] for x in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 51))
    whole = unbroken[workers].folder
    assert losses(tmp_path) == losses(whole)
    assert read_json(tmp_path / "order.json") == read_json(whole / "order.json")
    a, b = weights(whole), weights(tmp_path)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_sliced_base_learns_what_a_whole_one_does(
    tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer
) -> None:
    """With an evaluation on the way, and a last step of one row, which one of the two workers does not have."""
    settings = {"workers": 2, "cpus_per_worker": 1, "eval_every": 5, "max_steps": 7, "batch_size": 47, "epochs": 1}
    whole = job(tiny_llama, tmp_path / "whole", tokenizer, **settings | {"workers": 1}, accumulation=3)
    sliced = job(tiny_llama, tmp_path / "sliced", tokenizer, **settings, accumulation=3, sharding="full")
    train(whole)  # in this process: that two workers under Ray equal one is tested above
    launch(sliced)
    assert losses(sliced.folder) == pytest.approx(losses(whole.folder), abs=1e-4)
    a, b = weights(whole.folder), weights(sliced.folder)
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[k], b[k], atol=1e-4) for k in a)

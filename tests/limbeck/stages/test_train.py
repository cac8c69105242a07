"""What the train stage says beside the training itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from limbeck.stages.train import _tell_of_warm_up, adapter_card
from task.errors import InputWarning
from tests.conftest import make_task
from tests.limbeck.test_cli import small_task
from tests.processes import descendants, gone

FIGURES = {
    "form": "read", "rows": 1_234, "steps": 40, "adapter_of_step": 30, "loss": 0.12345, "dev_f1": 0.912, "base": "x",
}


def test_the_card_of_an_adapter_says_how_it_was_made_and_nothing_of_the_machine() -> None:
    task = make_task(student={"base": "/somewhere/on/this/machine/my-llama"})
    card = adapter_card(task, FIGURES)
    assert "base_model: my-llama" in card
    assert "/somewhere" not in card
    for part in ("`toy`", "LoRA, rank 16", "1,234", "91.2 %", "`brand`", "`read`"):
        assert part in card
    assert "base_model: org/llama" in adapter_card(make_task(student={"base": "org/llama"}), FIGURES)
    other = adapter_card(make_task(student={"peft": {"peft_type": "IA3"}}), FIGURES | {"dev_f1": None})
    assert "| method | IA3 |" in other
    assert "not measured" in other


@pytest.mark.parametrize(("rows", "told"), [(176, True), (400, False)])
def test_a_training_within_its_warm_up_is_told(rows: int, told: bool, recwarn: pytest.WarningsRecorder) -> None:
    task = make_task(student={"batch_size": 16, "warmup_steps": 20, "max_steps": 40})
    _tell_of_warm_up(task, rows)
    found = [str(w.message) for w in recwarn if issubclass(w.category, InputWarning)]
    assert bool(found) == told
    if told:
        assert "11 steps, all of them within the warm-up" in found[0]
        assert "Lower batch_size or warmup_steps, or raise epochs" in found[0]


def test_a_training_that_max_steps_ends_within_its_warm_up_is_told_so(recwarn: pytest.WarningsRecorder) -> None:
    _tell_of_warm_up(make_task(student={"batch_size": 8, "warmup_steps": 20, "max_steps": 15}), 176)
    (found,) = [str(w.message) for w in recwarn if issubclass(w.category, InputWarning)]
    assert found.endswith("Raise student.max_steps, 15 now (22 steps without it), or lower warmup_steps")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sigterm_ends_a_training_and_its_workers_with_the_words_of_ctrl_c(tmp_path: Path, tiny_llama: Path) -> None:
    task = small_task(tmp_path, [
        {"query": f"oat milk {n}", "labels": [{"role": "brand", "text": "oat"}]} for n in range(40)
    ])
    process = subprocess.Popen(
        [sys.executable, "-m", "limbeck", "train", task, "--runs", tmp_path / "runs",
         *(x for s in (f"base={tiny_llama}", "epochs=10000", "save_every=5", "warmup_steps=0", "cpus_per_worker=1")
           for x in ("--set", f"student.{s}"))],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    checkpoints = tmp_path / "runs" / "small" / ".train.tmp" / "checkpoints"
    while not list(checkpoints.glob("step-*")):
        assert process.poll() is None
        time.sleep(0.1)
    started = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert said.endswith("limbeck: stopped; run the same command to resume\n")
    assert "Traceback" not in said
    assert process.returncode == 143
    assert len(started) > 2
    assert all(gone(pid) for pid in started)

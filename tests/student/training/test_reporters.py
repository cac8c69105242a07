from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboardX import event_file_writer

from student.training import reporters
from student.training.train import train
from task.errors import InputError
from task.tokenizer import FastTokenizer
from tests.student.training.test_train import job, train_again_from


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Every scalar in TensorBoard's event files, the last word on a step counting."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c  # noqa: F401 (the format: length, crc, event, crc)

    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("events.*")):
        raw, at = path.read_bytes(), 0
        while at < len(raw):
            size = int.from_bytes(raw[at : at + 8], "little")
            event = Event.FromString(raw[at + 12 : at + 12 + size])
            at += 16 + size
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_tensorboard_has_what_the_history_has_also_after_a_cut_within_the_second(
    tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda: 1_700_000_000.0))
    made = job(tiny_llama, tmp_path, tokenizer, report_to=("tensorboard",), eval_every=4)
    train(made)
    lines = (tmp_path / "history.jsonl").read_text().splitlines(keepends=True)
    train_again_from(made, step=4, lines="".join(lines[:6]))
    train(made)
    found = scalars(tmp_path / "tensorboard")
    history = [json.loads(x) for x in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert {h["step"]: h["loss"] for h in history} == pytest.approx(found["train/loss"], abs=1e-6)
    assert {h["step"]: h["dev_f1"] for h in history if "dev_f1" in h} == pytest.approx(found["eval/f1"], abs=1e-6)


def test_a_reporter_that_is_not_installed_is_an_error_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"student\.report_to: cannot report to wandb: .*pip install wandb"):
        reporters.check(["tensorboard", "wandb"])

"""Checkpoints, written atomically.

A checkpoint is written under a temporary name, flushed, and renamed; its `COMPLETE` file is written last. No pickle:
adapter and optimiser state are safetensors, the rest is JSON.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from student.adapters import write_adapter
from student.training.optimizer import restore, state_tensors
from task.files import read_json, write_json

MARKER = "COMPLETE"


def save(folder: Path, step: int, model: Any, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> Path:
    """Write checkpoint `step-<step>` into `folder`; then delete all but the newest two.

    Raises:
        OSError: It could not be written, for instance on a full disk; earlier checkpoints are kept.
    """
    final = folder / f"step-{step:06d}"
    staged = folder / f".step-{step:06d}.tmp"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        write_adapter(model, staged / "adapter")
        save_file(state_tensors(optimizer), str(staged / "optimizer.safetensors"))
        write_json(staged / "state.json", {**state, "step": step})
        _flush(staged)
        (staged / MARKER).touch()
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staged, ignore_errors=True)  # an incomplete checkpoint would take up the space
        kept = newest(folder)
        raise OSError(
            f"checkpoint {final} could not be written: {error}. Free disk space and run the same command: training "
            + (f"resumes from {kept.name}" if kept else "starts again from the beginning")
        ) from error
    shutil.rmtree(final, ignore_errors=True)
    staged.rename(final)
    for old in sorted(folder.glob("step-*"))[:-2]:
        shutil.rmtree(old)
    return final


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint; incomplete ones are ignored."""
    complete = [p for p in sorted(folder.glob("step-*")) if (p / MARKER).exists()]
    return complete[-1] if complete else None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The `state` that `save` was given, and the step."""
    state: dict[str, Any] = read_json(checkpoint / "state.json")
    return state


def load_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    """Restore the optimiser state of a checkpoint."""
    restore(optimizer, load_file(str(checkpoint / "optimizer.safetensors")))


def save_adapter(folder: Path, model: Any) -> None:
    """Replace the adapter in `folder`; a kill leaves the old one, the new one or none, never half of one."""
    staged = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    write_adapter(model, staged)
    _flush(staged)
    shutil.rmtree(folder, ignore_errors=True)
    staged.rename(folder)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())

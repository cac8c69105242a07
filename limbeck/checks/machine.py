"""Checks of the machine: packages, run folder, disk, memory."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from engine.process import has_gpu
from limbeck.checks.finding import Finding, Subject, bad, note, ok
from limbeck.environment import device
from limbeck.openvino_model import is_wanted
from student import estimate
from student.estimate import GIB
from task.model_store import stored
from task.processor import computed_in

_COPIES = 2  # of the base's weights in 16 bits: merged model and classifier; the bundle has links to them
_CHECKPOINTS = 3  # of adapter and moments
_DIMENSIONS = 384  # of the embeddings


def packages(s: Subject) -> Iterator[Finding]:
    """What the task's settings need is installed."""
    serving, student = s.task.serving, s.task.student
    needed = {
        "vllm": serving.engine == "vllm" or s.task.teacher.backend == "vllm",
        "openvino": serving.engine == "openvino", "bitsandbytes": student.quantization == "nf4",
    }
    missing = [p for p, wanted in needed.items() if wanted and importlib.util.find_spec(p) is None]
    if serving.engine == "auto" and not any(importlib.util.find_spec(p) for p in ("vllm", "openvino")):
        missing.append("vllm")
    if missing:
        yield bad("packages", f"not installed: {', '.join(missing)}", "Run `make`, which sets up everything")


def keys(s: Subject) -> Iterator[Finding]:
    """The file of API keys, which `limbeck serve` needs, is there; a service may run on another machine."""
    file = s.task.serving.keys
    if file is not None:
        yield ok("serving.keys", str(file)) if file.exists() else note(
            "serving.keys", f"{file} is not here, and `limbeck serve` does not start without it",
            f"`limbeck key NAME --file {file}` makes it",
        )


def folder(s: Subject) -> Iterator[Finding]:
    """The run folder can be written, and the disk that it is on has room."""
    place = _existing(s.run.files.folder)
    if not os.access(place, os.W_OK) or not place.is_dir():
        yield bad("run folder", f"{place} is not a folder that can be written", "Choose another one with --runs")
        return
    needed, free = _bytes_needed(s), shutil.disk_usage(place).free
    text = f"about {needed / GIB:.1f} GiB needed, {free / GIB:.1f} GiB free in {place}"
    yield ok("disk", text) if free > needed else bad("disk", text, "Make room, or choose another folder with --runs")


def _existing(path: Path) -> Path:
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def _bytes_needed(s: Subject) -> float:
    """Models and checkpoints of the student, and the embeddings of what the teacher looks up."""
    shape = estimate.architecture(s.task.student.base)
    texts = sum(len(s.rows(name)) for name in ("queries", "catalogue"))
    total = float(texts * _DIMENSIONS * 4)
    if shape is not None:
        copies = _COPIES + is_wanted(s.task) + (stored(s.task.student.base) is None)
        total += 2 * shape.parameters * copies
        total += 12 * estimate.adapter_parameters(shape, s.task.student.lora) * _CHECKPOINTS
    return total


def memory(s: Subject) -> Iterator[Finding]:
    """A training worker fits into the memory of the GPU or of the machine; a cluster's is not known here."""
    student = s.task.student
    if student.ray_address is not None:
        yield note("memory", f"the machines of the Ray cluster at {student.ray_address} are not looked at")
        return
    if student.use_gpu and not has_gpu():
        yield bad(
            "GPU", "student.use_gpu is true, and this machine has no NVIDIA GPU",
            "Set student.ray_address to a cluster that has, or student.use_gpu to false",
        )
        return
    if s.training is None:
        return
    needed = sum(s.training.memory.values())
    has = _gpu_gib() if student.use_gpu else device()["memory_gib"] / student.workers
    if has is None:
        yield note("memory", f"about {needed:.1f} GiB a worker; nvidia-smi does not say what the GPU has")
        return
    where = "the GPU has" if student.use_gpu else f"{has:.1f} GiB for each of {student.workers} workers"
    text = f"about {needed:.1f} GiB a worker, {where}{f' {has:.1f} GiB' if student.use_gpu else ''}"
    yield ok("memory", text) if needed < has else bad(
        "memory", text, "Raise student.accumulation, lower student.batch_size, or set student.gradient_checkpointing"
    )


def precision(s: Subject) -> Iterator[Finding]:
    """What the student is computed in; a cluster's processors are not known here."""
    student = s.task.student
    if student.ray_address is not None:
        return
    dtype = computed_in(student.dtype, gpu=student.use_gpu)
    why = f", because this processor has no products in {student.dtype}" if dtype != student.dtype else ""
    yield ok("student.dtype", f"computed in {dtype}{why}")


def _gpu_gib() -> float | None:
    """The memory of the smallest GPU."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    found = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    sizes = [int(x) for x in found if x.isdecimal()]
    return min(sizes) / 1024 if sizes else None

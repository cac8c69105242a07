"""Set up a virtual environment with the whole stack: `python3 tools/bootstrap.py .venv`.

Standard library only, so that a bare Python 3.11 can run it. The exact versions are in requirements/cpu.txt or, where
an NVIDIA GPU is present (or LIMBECK_STACK says so), requirements/cuda.txt; LIMBECK_STACK=serve takes what `limbeck
serve` needs on a machine without a GPU. Packages are installed without looking at their own requirements: the lists are
complete, and vLLM's CPU build asks for torchvision and torchaudio, whose published builds want CUDA and break the
import of transformers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

SIZES = {"cpu": "4 GB", "cuda": "12 GB", "serve": "0.5 GB"}
ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Make the environment; returns the exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 (an older Python must be told, not crash)
        print(f"Limbeck needs Python 3.11 or later, this is {sys.version.split()[0]}; set PYTHON=python3.11 or newer")
        return 2
    venv = Path(sys.argv[1])
    stack = os.environ.get("LIMBECK_STACK") or ("cuda" if shutil.which("nvidia-smi") else "cpu")
    lock = ROOT / "requirements" / f"{stack}.txt"
    if stack not in SIZES:
        print(f"LIMBECK_STACK={stack}: expected {', '.join(SIZES)}")
        return 2
    started = time.monotonic()
    print(f"Setting up {venv} ({stack} stack, some {SIZES[stack]}); this happens once", flush=True)
    python = venv / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", str(venv))
    run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv==0.13.9")
    uv = [str(venv / "bin" / "uv"), "pip", "install", "--quiet", "--python", str(python), "--no-deps"]
    install_torch(python, uv, lock)
    run(*uv, "-r", str(lock))
    run(*uv, "--no-build-isolation", "-e", str(ROOT))
    (venv / "ready").write_text(stack + "\n")
    print(f"Ready after {time.monotonic() - started:.0f} s", flush=True)
    return 0


def install_torch(python: Path, uv: list[str], lock: Path) -> None:
    """The CPU build of torch: from pip's own sources where a folder of wheels is configured, else PyTorch's index."""
    wanted = next((x.split()[0] for x in lock.read_text().splitlines() if x.startswith("torch==")), "")
    if "+cpu" not in wanted:
        return  # the CUDA build is what the registry has
    plain = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", wanted]
    if subprocess.run(plain, stderr=subprocess.DEVNULL, check=False).returncode:
        run(*uv, "--torch-backend", "cpu", wanted)


def settings(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a step: uv, which does not know pip's PIP_CERT, gets its certificates as SSL_CERT_FILE."""
    file = given.get("SSL_CERT_FILE") or given.get("PIP_CERT")
    return {**given, "SSL_CERT_FILE": file} if file else dict(given)


def run(*command: str) -> None:
    """Run a step; its failure ends the set-up."""
    done = subprocess.run(command, env=settings(os.environ), check=False)
    if done.returncode:
        sys.exit(f"set-up failed at: {' '.join(command)}")


if __name__ == "__main__":
    sys.exit(main())

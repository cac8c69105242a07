"""What a service on CPUs needs: packages of requirements/serve.txt against those of requirements/cpu.txt.

    python -m benchmarks.serve_install BUNDLE [--rounds 3]

Each round makes an empty virtual environment for either list, in turns, installs the list and this project's wheel with
uv (its cache is filled by an uncounted round, so that the network is not measured), and starts `limbeck serve` on the
bundle until it is ready. Peak memory is that of the service's processes together. Writes
benchmarks/results/serve_install.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

import psutil

from benchmarks.engines import spread
from engine.loopback import LOOPBACK, free_port
from limbeck.environment import device, git_commit, versions
from task.files import write_json
from tools.bootstrap import install_torch

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "benchmarks" / "results" / "serve_install.json"
ENGINES: Final = {"serve": "openvino", "cpu": "vllm"}
WITHOUT_OURS: Final = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}


def main() -> None:
    """Install and start in turns, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a bundle with a model for OpenVINO")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {k: [] for k in ENGINES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w"]
        subprocess.run([*command, folder, ROOT], check=True)
        (wheel,) = folder.glob("*.whl")
        for number in range(options.rounds + 1):  # the first one fills uv's cache
            for stack in list(ENGINES)[:: 1 if number % 2 else -1]:
                with tempfile.TemporaryDirectory(dir=folder) as venv:
                    one = _round(stack, Path(venv), wheel, options.bundle.resolve())
                print(stack, one, flush=True)
                if number:
                    found[stack].append(one)
    figures = {k: {x: spread([r[x] for r in rows]) for x in rows[0]} for k, rows in found.items()}
    ratio = {
        x: spread([a[x] / b[x] for a, b in zip(found["serve"], found["cpu"], strict=True)]) for x in figures["cpu"]
    }
    write_json(RESULT, {
        **figures, "ratio": ratio, "engines": ENGINES, "rounds": options.rounds, "versions": versions(),
        "device": device(), "git": git_commit(),
    })
    print(RESULT)


def _round(stack: str, venv: Path, wheel: Path, bundle: Path) -> dict[str, float]:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python, lock = venv / "bin" / "python", ROOT / "requirements" / f"{stack}.txt"
    uv = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet", "--no-deps", "--link-mode", "copy",
          "--python", str(python)]
    install_torch(python, uv, lock)
    subprocess.run([*uv, "-r", lock, wheel], check=True, env=WITHOUT_OURS)
    installed = time.perf_counter() - started
    size = sum(p.stat().st_size for p in venv.rglob("*") if p.is_file() and not p.is_symlink())
    times = [_start(stack, venv, bundle) for _ in range(2)]  # the first one compiles bytecode
    return {
        "install_s": installed, "size_mb": size / 2**20, "first_start_s": times[0][0], "start_s": times[1][0],
        "memory_mb": times[1][1],
    }


def _start(stack: str, venv: Path, bundle: Path) -> tuple[float, float]:
    """Seconds until the service is ready, and MB of its processes then, each shared page counted once."""
    port = free_port()
    with tempfile.TemporaryDirectory() as state:
        started = time.perf_counter()
        with (Path(state) / "serve.log").open("wb") as log:
            process = subprocess.Popen(
                [venv / "bin" / "limbeck", "serve", bundle, "--port", str(port), "--admin-port", "0", "--state", state,
                 "--set", f"serving.engine={ENGINES[stack]}"], stdout=log, stderr=log, env=WITHOUT_OURS,
            )
        try:
            while not _ready(f"http://{LOOPBACK}:{port}/readyz"):
                if process.poll() is not None:
                    raise RuntimeError((Path(state) / "serve.log").read_text()[-2000:])
                time.sleep(0.05)
            seconds = time.perf_counter() - started
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            return seconds, sum(p.memory_full_info().pss for p in tree) / 2**20
        finally:
            process.terminate()
            process.wait(60)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    main()

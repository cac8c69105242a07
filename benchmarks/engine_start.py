"""Start-up time of an engine: a new vLLM process against a fork of a process that has imported vLLM.

    python -m benchmarks.engine_start BUNDLE [--rounds 6]

Both ways in turns, on an idle machine without a GPU, from the start of the process to the first labels; the import of
the warm-start process, which the first engine of a service waits for, is timed apart. Expected: three imports of vLLM
against none, so a fifth of the time. Writes benchmarks/results/engine_start.json.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine.client import VllmClient
from engine.startup import start_engine
from engine.vllm_process import ready_to_start
from limbeck.environment import device, git_commit, versions
from serving.release.bundle import Bundle, open_bundle
from task.files import write_json
from task.tokenizer import load_tokenizer

RESULT = Path(__file__).parent / "results" / "engine_start.json"


def main() -> None:
    """Measure alternately and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "engine.log"
        begun = time.perf_counter()
        while not ready_to_start(bundle.task.serving, log):
            time.sleep(0.01)
        imported = time.perf_counter() - begun
        print("imported", imported, flush=True)
        taken: dict[str, list[float]] = {"as vLLM starts": [], "forked": []}
        for number in range(options.rounds):
            for way in list(taken)[:: 1 if number % 2 == 0 else -1]:
                taken[way].append(seconds(bundle, way == "forked", log))
                print(number, way, taken[way][-1], flush=True)
    ratios = [a / b for a, b in zip(*taken.values(), strict=True)]
    write_json(RESULT, {
        "import_s": round(imported, 2), "seconds": {k: spread(v) for k, v in taken.items()}, "times": spread(ratios),
        "rounds": options.rounds, "versions": versions(), "device": device(), "git": git_commit(),
    })
    print(RESULT)


def seconds(bundle: Bundle, forked: bool, log: Path) -> float:
    """From the start of the process until it has labelled a query."""
    settings = bundle.task.serving.model_copy(update={"warm_start": forked})
    begun = time.perf_counter()
    with start_engine(bundle, log, settings=settings) as engine:
        engine.wait_ready()
        asyncio.run(_asked(bundle, engine.url))
        return time.perf_counter() - begun


async def _asked(bundle: Bundle, url: str) -> None:
    async with VllmClient.of(bundle, url, load_tokenizer(bundle.model), timeout_s=60.0) as client:
        await client.label(["oat milk"])


def spread(values: list[float]) -> dict[str, Any]:
    """Median, least and most."""
    return {"median": round(float(np.median(values)), 2), "least": round(min(values), 2), "most": round(max(values), 2)}


if __name__ == "__main__":
    main()

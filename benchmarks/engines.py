"""OpenVINO against vLLM on a CPU: one bundle, one machine, both services running, asked in turns.

    python -m benchmarks.engines runs/market [--queries 400] [--rounds 3] [--before CHECKOUT]

Misses through the gateway, one query at a time, in blocks that alternate between the services; then batches
through a running engine (`limbeck predict` without its start), rounds in turns; then labels and F1 on the gold rows.
With `--before`, `limbeck predict` of another checkout labels the same file as a whole command, in turns with ours: what
somebody waits for, start included.

Expected: a pass of SmolLM2-135M reads 212 MB of weights in bf16, 11 ms at 20 GB/s; vLLM adds its scheduler, two
processes and eager PyTorch, some 20 ms. In batches both are limited by the matrix units, so less is gained there.
Writes benchmarks/results/engines.json.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.startup import start_checked_engine
from eval.endpoint import Target
from eval.latency import percentiles, times_as_slow
from eval.load_generator import one_by_one
from eval.quality import label_agreement, paired_difference, quality
from limbeck.environment import device, git_commit, versions
from limbeck.operations.predict import through_engine
from serving.client import served
from serving.release.bundle import Bundle, open_bundle
from serving.release.startup_queries import startup_queries
from task.files import write_json, write_jsonl
from task.labels import Example
from task.python_process import environment, python
from task.readers import read_labels

RESULT: Final = Path(__file__).parent / "results" / "engines.json"
KINDS: Final = ("openvino", "vllm")
BLOCK: Final = 40  # queries, one after the other
WARM_UP: Final = 5  # before each block
PAUSE_S: Final = 0.5  # the threads of PyTorch spin for 0.2 s after a pass, on the cores that the other engine needs


def main() -> None:
    """Misses, batches, quality, and with `--before` whole commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run whose bundle has a model for OpenVINO")
    parser.add_argument("--queries", type=int, default=400, help="misses; p99 needs 299 of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="another checkout, with its own .venv")
    parser.add_argument("--before-bundle", type=Path, metavar="BUNDLE", help="a bundle that it can open")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    bundle = open_bundle(options.run / "bundle" / "bundle")
    gold = read_labels(options.run / "sample" / "gold_test.jsonl", bundle.task)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result: dict[str, Any] = {"misses": misses(bundle, gold[: options.queries], folder)}
        print("misses", result["misses"], flush=True)
        result |= batches(bundle, gold, folder, options.rounds)
        print("batches", result["batches"], result["quality"], flush=True)
        if options.before is not None:
            result["commands"] = commands(
                bundle, gold, folder, options.rounds, options.before.resolve(), options.before_bundle.resolve()
            )
            print("commands", result["commands"], flush=True)
    model = bundle.folder / "openvino" / "model.bin"
    write_json(options.out, {
        **result, "queries": options.queries, "rounds": options.rounds, "model_mb": model.stat().st_size >> 20,
        "versions": versions(), "device": device(), "git": git_commit(),
    })
    print(options.out)


def misses(bundle: Bundle, rows: Sequence[Example], folder: Path) -> dict[str, Any]:
    """Latency of queries that the cache does not have, one at a time, and the seconds until a service is ready."""
    ready: dict[str, float] = {}

    def service(kind: str) -> Any:
        started = time.perf_counter()

        def waits(_: float) -> None:
            ready[kind] = round(time.perf_counter() - started, 1)

        return served(bundle.folder, state=folder / kind, on_wait=waits, options=_settings(kind))

    queries = [r.query for r in rows]
    parts: dict[str, list[Any]] = {k: [] for k in KINDS}
    with service("openvino") as ours, service("vllm") as theirs:
        urls = dict(zip(KINDS, (ours, theirs), strict=True))
        for at in range(0, len(queries), BLOCK):
            for kind in KINDS if at // BLOCK % 2 else KINDS[::-1]:
                time.sleep(PAUSE_S)
                one_by_one(Target(urls[kind]), queries[:WARM_UP], use_cache=False)
                found = one_by_one(Target(urls[kind]), queries[at : at + BLOCK], use_cache=False)
                parts[kind].append(found.latency)
    seconds = [np.concatenate(parts[k]) for k in KINDS]
    return {
        **{k: {**percentiles(s), "ready_s": ready[k]} for k, s in zip(KINDS, seconds, strict=True)},
        "times": times_as_slow(*seconds),
        "p99_ratio": round(float(np.percentile(seconds[0], 99) / np.percentile(seconds[1], 99)), 3),
    }


def batches(bundle: Bundle, rows: Sequence[Example], folder: Path, rounds: int) -> dict[str, Any]:
    """Queries a second of both engines in turns, and what their labels are worth."""
    rates: dict[str, list[float]] = {k: [] for k in KINDS}
    labels: dict[str, list[Example]] = {}
    of = {k: _with(bundle, k) for k in KINDS}
    engines = {k: start_checked_engine(of[k], startup_queries(of[k]), folder / f"{k}.log") for k in KINDS}
    try:
        for number in range(rounds + 1):  # the first one warms up
            for kind in KINDS if number % 2 else KINDS[::-1]:
                started = time.perf_counter()
                labels[kind] = asyncio.run(through_engine(of[kind], engines[kind].url, rows, False, lambda _: None))
                if number:
                    rates[kind].append(len(rows) / (time.perf_counter() - started))
    finally:
        for engine in engines.values():
            engine.close()
    f1 = {k: quality(rows, v, bundle.task)["value"]["f1"] for k, v in labels.items()}
    ours, theirs = (labels[k] for k in KINDS)
    return {
        "batches": {
            "rows": len(rows), **{k: spread(v) for k, v in rates.items()},
            "ratio": spread([a / b for a, b in zip(*rates.values(), strict=True)]),
        },
        "quality": {
            "agreement": round(label_agreement(ours, theirs), 6), "f1": f1,
            "difference": paired_difference(rows, ours, theirs, bundle.task),
        },
    }


def commands(
    bundle: Bundle, rows: Sequence[Example], folder: Path, rounds: int, before: Path, before_bundle: Path
) -> dict[str, Any]:
    """Seconds that `limbeck predict` takes, of this checkout and of another one."""
    queries = folder / "queries.jsonl"
    write_jsonl(queries, ({"query": r.query} for r in rows))
    arms = {
        "now": (bundle.folder, python(), environment()),
        "before": (
            before_bundle, [str(before / ".venv/bin/python"), "-P"], environment() | {"PYTHONPATH": str(before)},
        ),
    }
    seconds: dict[str, list[float]] = {k: [] for k in arms}
    for number in range(rounds):
        for name in list(arms)[:: 1 if number % 2 else -1]:
            source, interpreter, variables = arms[name]
            started = time.perf_counter()
            subprocess.run([
                *interpreter, "-m", "limbeck", "predict", str(source), "--in", str(queries), "--out",
                str(folder / f"{name}.jsonl"), "--no-cache", "--log", str(folder / f"{name}.log"),
            ], env=variables, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - started)
    return {
        "rows": len(rows), **{k: spread(v) for k, v in seconds.items()},
        "ratio": spread([a / b for a, b in zip(seconds["before"], seconds["now"], strict=True)]),
    }


def _settings(kind: str) -> tuple[str, ...]:
    return ("--set", f"serving.engine={kind}", "--set", "serving.access_log=false")


def _with(bundle: Bundle, kind: str) -> Bundle:
    serving = bundle.task.serving.model_copy(update={"engine": kind})
    return replace(bundle, task=bundle.task.model_copy(update={"serving": serving}))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {
        "median": round(statistics.median(values), 3), "low": round(min(values), 3), "high": round(max(values), 3),
    }


if __name__ == "__main__":
    main()

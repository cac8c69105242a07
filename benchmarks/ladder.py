"""The rungs of the latency ladder that a CPU has: what each costs and what it does to the labels.

    python -m benchmarks.ladder runs/market [--queries 200] [--rounds 2]

The finished run's student in the form `read`, straight to vLLM: `merged` (bf16), `float32`, `adapter` (the base, the
adapter added while it runs, a head of 128 symbols), and `int8` (8-bit weights and activations). For each: one query at
a time; then the run's gold queries, two batches of 32 in flight. The rungs take turns forwards and backwards, so that a
machine that changes its pace favours none. F1 is compared on the same gold queries with that of `merged`.

Expected: an adapter's extra products cost a tenth; int8 halves the bytes, of which a small model has few, and pays for
rounding each activation. Writes benchmarks/results/ladder.json.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving import made_up_misses
from eval.latency import percentiles
from eval.quality import paired_difference, quality
from limbeck.predict import through_engine
from limbeck.stage import device, git_commit, versions
from serving.bundle import Bundle, build, open_bundle
from serving.client import StudentClient
from serving.keeper import started
from student.classifier import export_classifier, shared_symbols
from student.quantise import quantise
from task.files import write_json
from task.io import read_labels
from task.labels import Example
from task.store import fetch
from task.tokens import load_tokenizer

RESULT = Path(__file__).parent / "results" / "ladder.json"
WARM_UP = 10


def main() -> None:
    """Build the rungs, climb them forwards and backwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished market run")
    parser.add_argument("--bundle", type=Path, help="in place of the run's")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    first = open_bundle(options.bundle or options.run / "bundle" / "bundle")
    gold = [Example(r.query, r.labels) for r in read_labels(options.run / "sample" / "gold_test.jsonl", first.task)]
    with tempfile.TemporaryDirectory() as name:
        rungs = {k: make(first, options.run, Path(name) / k) for k, make in RUNGS.items()}
        queries = made_up_misses(first, options.queries)
        seconds: dict[str, list[float]] = {k: [] for k in rungs}
        rates: dict[str, list[float]] = {k: [] for k in rungs}
        said: dict[str, list[Example]] = {}
        for number in range(options.rounds):
            for rung in list(rungs)[:: 1 if number % 2 == 0 else -1]:
                one_by_one, rate, answers = climbed(rungs[rung], queries, gold, Path(name) / "engine.log")
                seconds[rung] += one_by_one
                rates[rung].append(round(rate, 1))
                said.setdefault(rung, answers)
                print(number, rung, percentiles(one_by_one), rates[rung], flush=True)
    task = first.task
    write_json(RESULT, {
        "queries": options.queries, "gold": len(gold), "rungs": {
            k: {
                **percentiles(seconds[k]), "queries_per_s": rates[k], "f1": quality(gold, said[k], task)["value"]["f1"],
                "less_merged": None if k == "merged" else paired_difference(gold, said[k], said["merged"], task),
                "disk_mb": round(sum(p.stat().st_size for p in rungs[k].model.iterdir()) / 1e6),
            } for k in rungs
        }, "versions": versions(), "device": device(), "git": git_commit(),
    })
    print(RESULT)


def climbed(
    bundle: Bundle, queries: Sequence[str], gold: Sequence[Example], log: Path
) -> tuple[list[float], float, list[Example]]:
    """Seconds of single queries, gold queries a second, and what was said of them."""
    with started(bundle, log) as engine:
        seconds = asyncio.run(_one_by_one(bundle, engine.url, queries))
        begun = time.perf_counter()
        said = asyncio.run(through_engine(bundle, engine.url, gold, False, lambda _: None))
        return seconds, len(gold) / (time.perf_counter() - begun), said


async def _one_by_one(bundle: Bundle, url: str, queries: Sequence[str]) -> list[float]:
    out = []
    async with StudentClient.of(bundle, url, load_tokenizer(bundle.model)) as client:
        for query in queries:
            begun = time.perf_counter()
            await client.label([query])
            out.append(time.perf_counter() - begun)
            await asyncio.sleep(0.02)
    return out[WARM_UP:]


# -- the rungs ---------------------------------------------------------------------------------------------------------


def _merged(bundle: Bundle, _run: Path, _folder: Path) -> Bundle:
    return bundle


def _float32(bundle: Bundle, _run: Path, folder: Path) -> Bundle:
    return _again(bundle, folder, bundle.model, {"dtype": "float32"})


def _adapter(bundle: Bundle, run: Path, folder: Path) -> Bundle:
    base = fetch(bundle.task.student.base)
    export_classifier(base, shared_symbols(load_tokenizer(base), 128), folder / "base", shared=True)
    return _again(bundle, folder, folder / "base", {"weights": "adapter"}, run / "train" / "adapter")


def _int8(bundle: Bundle, _run: Path, folder: Path) -> Bundle:
    quantise(bundle.model, folder / "int8")
    return _again(bundle, folder, folder / "int8", {"quantization": "int8"})


def _again(
    bundle: Bundle, folder: Path, model: Path, serving: dict[str, Any], adapter: Path | None = None
) -> Bundle:
    """The bundle with another model, an empty cache and other settings."""
    settings = bundle.task.serving.model_copy(update=serving)
    task = bundle.task.model_copy(update={"serving": settings})
    return build(folder / "bundle", task, bundle.codec, model, [], {}, bundle.certainty, adapter=adapter)


RUNGS: dict[str, Callable[[Bundle, Path, Path], Bundle]] = {
    "merged": _merged, "float32": _float32, "adapter": _adapter, "int8": _int8,
}


if __name__ == "__main__":
    main()

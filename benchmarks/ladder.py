"""Serving variants on a CPU: latency, throughput and F1 of each.

    python -m benchmarks.ladder runs/market [--queries 160] [--rows 400] [--rounds 2]
                                            [--json-queries 160] [--json-rows 100] [--only RUNG ...]

Straight to vLLM, in the form `read`: the finished run's student `merged` (bf16), in `float32`, as a run-time `adapter`
(the base, and a head of 128 symbols), in 8 bits (`int8`, weights and activations). Where `limbeck forms` has trained
them for the run, also students that write: a `json` answer, the same with vLLM's `prefix cache` and with n-gram
`speculation` (drafts copied from the query), and the codec's symbols, `write`. For each: one query at a time; then gold
queries, two batches of 32 in flight. The rungs take turns forwards and backwards, so that a machine that changes its
pace favours none. F1 is compared on the same gold queries with that of the rung that it stands on.

Expected: an adapter's extra products cost a tenth; int8 halves the bytes, of which a small model has few, and pays for
rounding each activation; queries share no prefix, so its cache gives nothing; speculation saves a third of a JSON
answer, whose values stand in the query. Writes benchmarks/results/ladder.json.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving import made_up_misses
from engine.client import VllmClient
from engine.startup import start_checked_engine
from eval.latency import percentiles
from eval.quality import paired_difference, quality
from limbeck.environment import device, git_commit, versions
from limbeck.operations.predict import through_engine
from serving.release.bundle import Bundle, build, open_bundle
from serving.release.startup_queries import startup_queries
from student.merging.quantise import quantise
from student.merging.token_classifier import export_classifier, shared_symbols
from task.codec import load_codec
from task.files import read_json, write_json
from task.labels import Example
from task.model_store import fetch
from task.readers import read_labels
from task.tokenizer import load_tokenizer

RESULT = Path(__file__).parent / "results" / "ladder.json"
WARM_UP = 10
Make = Callable[[Bundle, Path, Path], Bundle | None]


def main() -> None:
    """Build the variants and measure them in alternating order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished market run")
    parser.add_argument("--bundle", type=Path, help="another bundle than the run's")
    parser.add_argument("--queries", type=int, default=160, help="asked one by one in each round")
    parser.add_argument("--rows", type=int, default=400, help="gold queries that are answered in batches")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json-queries", type=int, default=160, help="a JSON answer takes a second or two")
    parser.add_argument("--json-rows", type=int, default=100, help="gold queries that are answered in JSON")
    parser.add_argument("--only", nargs="+", choices=[r.name for r in RUNGS], metavar="RUNG",
                        help="climb these, with those that they stand on; the others' rows of the result are kept")
    options = parser.parse_args()
    chosen = [r for r in RUNGS if not options.only or r.name in options.only]
    for rung in chosen:
        if rung.stands_on is not None and rung.stands_on not in {r.name for r in chosen}:
            parser.error(f"--only {rung.name} needs {rung.stands_on}, on which it stands")
    kept = read_json(RESULT)["rungs"] if options.only and RESULT.exists() else {}
    first = open_bundle(options.bundle or options.run / "bundle" / "bundle")
    gold = [Example(r.query, r.labels) for r in read_labels(options.run / "sample" / "gold_test.jsonl", first.task)]
    climbs: dict[str, Climb] = {}
    with tempfile.TemporaryDirectory() as name:
        for rung in chosen:
            bundle = rung.make(first, options.run, Path(name) / rung.name.replace(" ", "-"))
            if bundle is None:
                print(f"{rung.name}: left out; `limbeck forms` trains the student that it needs", flush=True)
                continue
            slow = bundle.codec.form == "json"
            queries = made_up_misses(first, options.json_queries if slow else options.queries)
            climbs[rung.name] = Climb(rung, bundle, queries, gold[: options.json_rows if slow else options.rows])
        for number in range(options.rounds):
            for climb in list(climbs.values())[:: 1 if number % 2 == 0 else -1]:
                climb.again(Path(name) / "engine.log")
                print(number, climb.rung.name, percentiles(climb.seconds), climb.rates, flush=True)
        rungs = kept | {k: told(c, climbs) for k, c in climbs.items()}
        write_json(RESULT, {
            "queries": options.queries, "json_queries": options.json_queries, "rounds": options.rounds,
            "rungs": {r.name: rungs[r.name] for r in RUNGS if r.name in rungs},
            "versions": versions(), "device": device(),
        })
    print(RESULT)


@dataclass
class Climb:
    """A rung's bundle, what it is asked, and what came of it so far."""

    rung: Rung
    bundle: Bundle
    queries: Sequence[str]
    gold: Sequence[Example]
    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    said: Sequence[Example] = ()

    def again(self, log: Path) -> None:
        """One more round, with an engine of its own."""
        one_by_one, rate, said = climbed(self.bundle, self.queries, self.gold, log)
        self.seconds += one_by_one
        self.rates.append(round(rate, 1))
        self.said = self.said or said


def told(climb: Climb, climbs: Mapping[str, Climb]) -> dict[str, Any]:
    """A rung's row of the result."""
    task, below = climb.bundle.task, climb.rung.stands_on
    return {
        **percentiles(climb.seconds), "queries_per_s": climb.rates, "stands_on": below, "rows": len(climb.gold),
        "f1": quality(climb.gold, climb.said, task)["value"]["f1"],
        "difference": None if below is None else paired_difference(climb.gold, climb.said, climbs[below].said, task),
        "git": git_commit(), "disk_mb": round(sum(p.stat().st_size for p in climb.bundle.model.iterdir()) / 1e6),
    }


def climbed(
    bundle: Bundle, queries: Sequence[str], gold: Sequence[Example], log: Path
) -> tuple[list[float], float, list[Example]]:
    """Seconds of single queries, gold queries a second, and what was said of them."""
    with start_checked_engine(bundle, startup_queries(bundle), log) as engine:
        seconds = asyncio.run(_one_by_one(bundle, engine.url, queries))
        begun = time.perf_counter()
        said = asyncio.run(through_engine(bundle, engine.url, gold, False, lambda _: None))
        return seconds, len(gold) / (time.perf_counter() - begun), said


async def _one_by_one(bundle: Bundle, url: str, queries: Sequence[str]) -> list[float]:
    out = []
    async with VllmClient.of(bundle, url, load_tokenizer(bundle.model)) as client:
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


def _written(form: str, *extra: str) -> Make:
    """A student that writes, which `limbeck forms` has trained."""

    def make(bundle: Bundle, run: Path, folder: Path) -> Bundle | None:
        merged = run / "forms" / f"merge-{form}"
        if not (merged / "manifest.json").exists():
            return None
        student = bundle.task.student.model_copy(update={"form": form})
        serving = bundle.task.serving.model_copy(update={
            "extra_args": (*bundle.task.serving.extra_args, *extra), "request_timeout_s": 600.0,
        })
        task = bundle.task.model_copy(update={"student": student, "serving": serving})
        return build(folder / "bundle", task, load_codec(merged), merged / "model", [], {})

    return make


def _again(
    bundle: Bundle, folder: Path, model: Path, serving: dict[str, Any], adapter: Path | None = None
) -> Bundle:
    """The bundle with another model, an empty cache and other settings."""
    settings = bundle.task.serving.model_copy(update=serving)
    task = bundle.task.model_copy(update={"serving": settings})
    return build(folder / "bundle", task, bundle.codec, model, [], {}, calibrator=bundle.calibrator, adapter=adapter)


@dataclass(frozen=True)
class Rung:
    """A way to serve; `make` gives its bundle, or None where the run lacks what it needs."""

    name: str
    make: Make
    stands_on: str | None


SPECULATION = '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3, "prompt_lookup_min": 1}'
RUNGS = (
    Rung("merged", _merged, None), Rung("float32", _float32, "merged"), Rung("adapter", _adapter, "merged"),
    Rung("int8", _int8, "merged"), Rung("json", _written("json"), None),
    Rung("json, prefix cache", _written("json", "--enable-prefix-caching"), "json"),
    Rung("json, n-gram speculation", _written("json", "--speculative-config", SPECULATION), "json"),
    Rung("write", _written("write"), None),
)


if __name__ == "__main__":
    main()

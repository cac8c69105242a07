"""A category as a path of symbols: quality, "none of these", and what a query costs.

    python -m benchmarks.taxonomy market --other FILE [--rows 8000]
    python -m benchmarks.taxonomy paths --taxonomy FILE --other FILE [--leaves 500] [--each 24]
    python -m benchmarks.taxonomy cost [--taxonomy FILE]

`--other` are queries of another domain, JSON lines: Banking77's test rows in the figures that are kept.

`market` is the synthetic market with its 166 categories; `paths` a taxonomy from a file of JSON lines (field `path`),
all of whose nodes are values while the queries are about `--leaves` of its leaves. Queries are made by
`benchmarks.taxonomy_queries`. A tenth of the training rows are queries of other domains, without a category; none is of
the domain of `--other`, which only judges. SmolLM2-135M (form `read`) is trained on them in this process, then scored
on queries that the training set does not have: precision, recall and F1 at the leaf and level by level, hit@5, ECE of
the answer's probability; and, with the queries of the other domain, AUROC of the probability of "none of these" and of
the best category, and the share that is answered at all.

`cost` serves the same weights twice in stock vLLM, with the codec of the taxonomy and with that of a role of twelve
values, and asks both the same queries in turns, blocks of a round, one query at a time. Training does not change what a
query costs, so the base's own weights are taken.

Expected: market F1 above 95 % at the leaf (the words of 166 types can be learned by heart), fewer at the leaves of the
file and more at each level above; AUROC above 95 %; a probe token a level on a prompt of 15 tokens costs about 2 % each
for two levels, and more than the 15 % asked for at eight. Writes benchmarks/results/taxonomy.json, a part a command.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.taxonomy_queries import (
    ROLE,
    SEPARATOR,
    Wording,
    market_examples,
    market_paths,
    outliers,
    read_paths,
)
from engine.client import VllmClient
from engine.vllm_process import VllmProcess
from eval.bootstrap import draw
from eval.calibration import assess
from eval.latency import percentiles
from eval.quality_schema import Estimate
from eval.taxonomy import hit_at, taxonomy_quality
from limbeck.environment import device, git_commit, versions
from samples.market.assortment import departments
from student.inference import Scores, all_scores
from student.merging.token_classifier import export_classifier
from student.training.job import TrainingJob
from student.training.train import train
from task.codec import Codec
from task.files import read_json, write_json
from task.labels import Example, Label
from task.model_store import fetch
from task.spec import Task
from task.table_files import rows_of
from task.tokenizer import load_tokenizer
from task.training_row import TrainingRow

RESULT: Final = Path(__file__).parent / "results" / "taxonomy.json"
OUTLIERS: Final = 0.1  # share of the training rows
TESTED: Final = 2_000
HITS: Final = 5
SEED: Final = 0
ROUNDS, A_ROUND, WARM_UP = 6, 25, 10


def task_of(paths: Sequence[str], student: Mapping[str, Any] | None = None) -> Task:
    """A task whose only role is the category."""
    return _task({"values": sorted(paths), "separator": SEPARATOR}, student or {})


def _task(role: Mapping[str, Any], student: Mapping[str, Any]) -> Task:
    return Task.model_validate({
        "name": "taxonomy", "data": {"dir": ".", "labels": "labels.jsonl"}, "teacher": {"backend": "labels"},
        "roles": [{"name": ROLE, "kind": "closed", "multiple": False, **role}],
        "student": {"eval_every": 1_000_000, "keep_best": False, "cpus_per_worker": 2, **student},
        "eval": {"resamples": 2_000},
    })


def learn(
    task: Task, rows: Sequence[Example], folder: Path, base: Path, *, threads: int = 2
) -> tuple[Codec, list[dict[str, Any]]]:
    """Train a student in this process; returns its codec and the history."""
    from student.training.history import read_history

    codec = Codec.compile(task, rows, load_tokenizer(base))
    job = TrainingJob(task, base, codec, [TrainingRow(x) for x in rows], [], folder, reshuffle=True)
    folder.mkdir(parents=True, exist_ok=True)
    train(job, rank=0, world=1, device="cpu", threads=threads)
    return codec, read_history(folder / "history.jsonl")


def scores_of(task: Task, codec: Codec, folder: Path, base: Path, queries: Sequence[str]) -> list[Scores]:
    """Scores of a student that `learn` trained, as `student.inference.all_scores`."""
    from student.adapters import load_adapter
    from student.model import dtype_on, load_base

    model = load_adapter(load_base(base, dtype_on("cpu", task.student.dtype), task.student), folder / "adapter")
    return all_scores(model, codec, load_tokenizer(base), queries)


def judged(
    task: Task, codec: Codec, gold: Sequence[Example], scores: Sequence[Scores], other: Sequence[tuple[str, Scores]]
) -> dict[str, Any]:
    """All figures of a student.

    Args:
        gold: Queries of the domain; those without a label have no category.
        scores: Their scores.
        other: Queries of another domain with their scores.
    """
    predicted = [Example(g.query, codec.decode(g.query, s, task).labels) for g, s in zip(gold, scores, strict=True)]
    right_values = [g.value(ROLE) for g in gold]
    ranked = [[a.value for a in codec.ranked(s, ROLE, HITS)] for s in scores]
    said = [p.value(ROLE) for p in predicted]
    sure = [_probability(p, s, codec) for p, s in zip(predicted, scores, strict=True)]
    outside = [codec.decode(q, s, task).labels for q, s in other]
    options: dict[str, Any] = {"resamples": task.eval.resamples, "seed": task.eval.seed, "level": task.eval.confidence}
    calibration = assess(
        sure, [a == b for a, b in zip(said, right_values, strict=True)], range(len(gold)), **options
    )
    meant = [s for s, value in zip(scores, right_values, strict=True) if value is not None]
    is_meant = [True] * len(meant) + [False] * len(other)
    both = [*meant, *(s for _, s in other)]
    aurocs = {
        name: assess(of, is_meant, range(len(both)), **options)["auroc"] for name, of in (
            ("none_of_these", [1.0 - codec.none_probability(s, ROLE) for s in both]),
            ("best_category", [_best(codec, s) for s in both]),
        )
    }
    return {
        "rows": len(gold), "with_category": len(meant), **taxonomy_quality(gold, predicted, task, ROLE),
        "hit_at_5": _share(hit_at(right_values, ranked, HITS), task), "ece": calibration["ece"],
        "other": {
            "rows": len(other), "auroc": aurocs, "answered": _share([bool(x) for x in outside], task),
            "answered_from_half": _share([any((x.confidence or 0) >= 0.5 for x in found) for found in outside], task),
        },
    }


def _best(codec: Codec, scores: Scores) -> float:
    """The probability of the most probable category, though "none of these" be more probable."""
    first = next((a for a in codec.ranked(scores, ROLE, 2) if a.value is not None), None)
    return first.probability if first else 0.0


def _probability(predicted: Example, scores: Scores, codec: Codec) -> float:
    """Of the answer, which may be "none of these"."""
    return float(predicted.labels[0].confidence or 0.0) if predicted.labels else codec.none_probability(scores, ROLE)


def _share(hits: Any, task: Task) -> Estimate:
    counted = np.asarray(hits, dtype=np.int64)
    drawn = draw(np.stack([counted, np.ones_like(counted)], axis=1), resamples=task.eval.resamples, seed=task.eval.seed)
    return drawn.estimate(lambda sums: sums[..., 0] / sums[..., 1], task.eval.confidence)


def split(
    rows: Sequence[Example], *, tested: int, mixed: int, seed: int = SEED
) -> tuple[list[Example], list[Example]]:
    """Training rows with `mixed` queries of other domains among them, and the `tested` last rows."""
    learned = [*rows[:-tested], *outliers(mixed, seed)]
    random.Random(seed).shuffle(learned)
    return learned, list(rows[-tested:])


def quality_part(
    paths: Sequence[str], rows: Sequence[Example], options: argparse.Namespace, name: str
) -> dict[str, Any]:
    """Train on rows, judge on the last of them and on the other domain."""
    task = task_of(paths, {"epochs": options.epochs, "lora": {"rank": 32, "alpha": 64}})
    tested = min(TESTED, len(rows) // 4)
    learned, gold = split(rows, tested=tested, mixed=round(OUTLIERS * len(rows)))
    base, folder = fetch(task.student.base), options.work / name
    started = time.monotonic()
    codec, history = learn(task, learned, folder, base)
    minutes = (time.monotonic() - started) / 60
    print(f"{name}: {len(history)} steps, loss {history[-1]['loss']:.3f}, {minutes:.1f} minutes", flush=True)
    other = [str(row["query"]) for _, row in rows_of(options.other)]
    scores = scores_of(task, codec, folder, base, [*(g.query for g in gold), *other])
    found = judged(task, codec, gold, scores[: len(gold)], list(zip(other, scores[len(gold):], strict=True)))
    return {
        "paths": len(paths), "leaves": len({x.labels[0].text for x in rows if x.labels}), "learned": len(learned),
        "without_category": sum(not x.labels for x in learned), "steps": len(history), "minutes": round(minutes, 1),
        "probes": codec.probe_count, "symbols": len(codec.symbol_ids), **found,
    }


# -- what a query costs ---------------------------------------------------------------------------------------------


def cost(sets: Mapping[str, tuple[Sequence[str], Sequence[str]]], work: Path) -> dict[str, Any]:
    """For each name with its paths and queries: milliseconds of a query against a role of twelve values."""
    return {name: _against_twelve(name, paths, queries, work) for name, (paths, queries) in sets.items()}


def _against_twelve(name: str, paths: Sequence[str], queries: Sequence[str], work: Path) -> dict[str, Any]:
    twelve = [d.name for d in departments()]
    tasks = {"tree": task_of(paths), "twelve": _task({"values": twelve}, {})}
    base = fetch(tasks["tree"].student.base)
    tokenizer = load_tokenizer(base)
    codecs = {
        "tree": Codec.compile(tasks["tree"], [Example(queries[0], (Label(ROLE, paths[0]),))], tokenizer),
        "twelve": Codec.compile(tasks["twelve"], [Example(queries[0], (Label(ROLE, twelve[0]),))], tokenizer),
    }
    engines: dict[str, VllmProcess] = {}
    try:
        for side, codec in codecs.items():
            folder = work / f"{name}-{side}"
            export_classifier(base, codec.symbol_ids, folder)
            engines[side] = VllmProcess(
                folder, name="student", runs_as="read", settings=tasks[side].serving, log=work / f"{name}-{side}.log"
            )
            engines[side].__enter__()
            engines[side].wait_ready()
        clients = {
            s: lambda s=s: VllmClient(
                engines[s].url, name="student", task=tasks[s], codec=codecs[s], tokenizer=tokenizer
            ) for s in codecs
        }
        seconds = asyncio.run(_in_turns(clients, queries))
    finally:
        for side, engine in engines.items():
            engine.__exit__(None, None, None)
            shutil.rmtree(work / f"{name}-{side}", ignore_errors=True)
    return {
        "probes": {s: c.probe_count for s, c in codecs.items()},
        "prompt_tokens": {
            s: round(float(np.mean([len(c.prompt(q, tokenizer).ids) for q in queries])), 1) for s, c in codecs.items()
        },
        "latency": {s: percentiles(np.concatenate(of)) for s, of in seconds.items()},
        "times": ratio_of_medians(seconds["tree"], seconds["twelve"]),
    }


async def _in_turns(clients: Mapping[str, Any], queries: Sequence[str]) -> dict[str, list[Any]]:
    """Seconds of each query by round; the two sides take turns in going first."""
    out: dict[str, list[Any]] = {side: [] for side in clients}
    open_clients = {side: make() for side, make in clients.items()}
    for client in open_clients.values():
        for query in queries[:WARM_UP]:
            await client.label([query])
    for number in range(ROUNDS):
        part = queries[WARM_UP + number * A_ROUND : WARM_UP + (number + 1) * A_ROUND]
        for side in (list(clients) if number % 2 == 0 else list(clients)[::-1]):
            await asyncio.sleep(0.5)  # threads of the other engine go to sleep
            seconds = []
            for query in part:
                started = time.perf_counter()
                await open_clients[side].label([query])
                seconds.append(time.perf_counter() - started)
            out[side].append(np.array(seconds))
    for client in open_clients.values():
        await client.close()
    return out


def ratio_of_medians(a: Sequence[Any], b: Sequence[Any]) -> dict[str, float]:
    """Median of all of `a` over that of `b`, and the least and the most of single rounds."""
    rounds = [float(np.median(x) / np.median(y)) for x, y in zip(a, b, strict=True)]
    value = float(np.median(np.concatenate(a)) / np.median(np.concatenate(b)))
    return {"value": round(value, 3), "low": round(min(rounds), 3), "high": round(max(rounds), 3)}


def main() -> None:
    """Measure one part and write it beside the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["market", "paths", "cost"])
    parser.add_argument("--taxonomy", type=Path, help="JSON lines with the field `path`")
    parser.add_argument("--other", type=Path, help="JSON lines with the field `query`")
    parser.add_argument("--rows", type=int, default=8_000)
    parser.add_argument("--leaves", type=int, default=500)
    parser.add_argument("--each", type=int, default=24)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--work", type=Path, default=Path("runs/taxonomy"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.part == "paths" and options.taxonomy is None:
        parser.error("`paths` needs --taxonomy, the file of the paths")
    if options.part != "cost" and options.other is None:
        parser.error(f"`{options.part}` needs --other, queries of another domain")
    paths = [] if options.taxonomy is None else read_paths(options.taxonomy)
    if options.part == "market":
        found = quality_part(market_paths(), market_examples(options.rows, SEED), options, "market")
    elif options.part == "paths":
        found = quality_part(paths, _examples(paths, options), options, "paths")
    else:
        count = WARM_UP + ROUNDS * A_ROUND
        sets = {"market": (market_paths(), [x.query for x in market_examples(count, SEED + 1)])}
        if paths:
            sets["paths"] = (paths, [x.query for x in _examples(paths, options)][:count])
        found = cost(sets, options.work)
    content = read_json(RESULT) if RESULT.exists() else {}
    content[options.part] = found | {"versions": versions(), "device": device(), "git": git_commit()}
    write_json(RESULT, content)
    print(RESULT)


def _examples(paths: Sequence[str], options: argparse.Namespace) -> list[Example]:
    wording = Wording(paths)
    leaves = random.Random(SEED).sample(wording.leaves, min(options.leaves, len(wording.leaves)))
    return wording.examples(leaves, options.each, SEED)


if __name__ == "__main__":
    main()

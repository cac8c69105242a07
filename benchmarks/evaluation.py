"""Speed of the evaluation: 100,000 queries, six schemes, all slices, 10,000 resamples; compared with seqeval.

    python -m benchmarks.evaluation [--rows 100000] [--resamples 10000] [--rounds 5]

The rows are synthetic: ten roles, one to eight words, a tenth of the labellings wrong. The peer is seqeval's strict F1
in a naive bootstrap that draws rows and scores them again; its time is extrapolated from a few resamples. Expected:
counting takes most of Limbeck's time, some 2 s; the bootstrap takes less, because few rows of counts are distinct.
Writes benchmarks/results/evaluation.json.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path
from typing import Any

from eval.quality import quality
from eval.slices import slices_of
from limbeck.environment import device, git_commit, versions
from task.files import write_json
from task.labels import Example, Label, ordered
from task.spec import Task

RESULT = Path(__file__).parent / "results" / "evaluation.json"
ROLES = 10
_PEER_RESAMPLES = 3


def main() -> None:
    """Limbeck and the peer alternately."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    gold, predicted = made_up(options.rows)
    task = Task.model_validate({
        "name": "made-up", "roles": [{"name": f"role{i}"} for i in range(ROLES)], "data": {"dir": ".", "labels": "x"},
        "teacher": {"backend": "labels"}, "eval": {"resamples": options.resamples},
    })
    ours: list[float] = []
    peers: list[dict[str, float]] = []
    for number in range(options.rounds):
        started = time.perf_counter()
        slices = slices_of(gold, task, log=gold, train=gold[: len(gold) // 2])
        found = quality(gold, predicted, task, slices=slices)
        ours.append(time.perf_counter() - started)
        peers.append(peer(gold, predicted, number))
        print(f"{ours[-1]:.2f} s", peers[-1], flush=True)
    assert abs(found["span"]["f1"]["value"] - peers[-1]["f1"]) < 1e-6
    once = [p["once_s"] for p in peers]
    whole = [p["once_s"] + options.resamples * p["resample_s"] for p in peers]
    write_json(RESULT, {
        "rows": options.rows, "resamples": options.resamples, "rounds": options.rounds,
        "slices": {k: len(set(v)) for k, v in slices.items()}, "ours_s": _spread(ours), "seqeval_once_s": _spread(once),
        "seqeval_naive_s": _spread(whole), "times": _spread([b / a for a, b in zip(ours, whole, strict=True)]),
        "peer_resamples": _PEER_RESAMPLES, "versions": versions(), "device": device(), "git": git_commit(),
    })
    print(RESULT)


def peer(gold: list[Example], predicted: list[Example], seed: int) -> dict[str, float]:
    """Seconds for seqeval's strict F1, and for one resample of rows scored again."""
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2

    started = time.perf_counter()
    y, p = [tags(x) for x in gold], [tags(x) for x in predicted]
    f1 = f1_score(y, p, mode="strict", scheme=IOB2)
    once = time.perf_counter() - started
    rng = random.Random(seed)
    started = time.perf_counter()
    for _ in range(_PEER_RESAMPLES):
        rows = rng.choices(range(len(y)), k=len(y))
        f1_score([y[i] for i in rows], [p[i] for i in rows], mode="strict", scheme=IOB2)
    return {"f1": float(f1), "once_s": once, "resample_s": (time.perf_counter() - started) / _PEER_RESAMPLES}


def made_up(rows: int) -> tuple[list[Example], list[Example]]:
    """Gold and predictions."""
    rng = random.Random(0)
    gold, predicted = [], []
    for number in range(rows):
        words = [f"w{rng.randrange(5_000)}" for _ in range(rng.randint(1, 8))]
        query = " ".join(words)
        labels = _labels(words, rng)
        wrong = _labels(words, rng) if rng.random() < 0.1 else labels
        count = 1 + int(100_000 / (1 + number))
        gold.append(Example(query, labels, count))
        predicted.append(Example(query, wrong, count))
    return gold, predicted


def _labels(words: list[str], rng: random.Random) -> tuple[Label, ...]:
    out, at, start = [], 0, 0
    while at < len(words):
        taken = words[at : at + rng.randint(1, 3)]
        text = " ".join(taken)
        if rng.random() < 0.7:
            out.append(Label(f"role{rng.randrange(ROLES)}", text, start, start + len(text)))
        at += len(taken)
        start += len(text) + 1
    return ordered(out)


def tags(example: Example) -> list[str]:
    """IOB2 tags of the words."""
    out, at = [], 0
    for word in example.query.split():
        tag = "O"
        for x in example.labels:
            if x.start is not None and x.end is not None and x.start <= at < x.end:
                tag = f"{'B' if x.start == at else 'I'}-{x.role}"
        out.append(tag)
        at += len(word) + 1
    return out


def _spread(values: list[float]) -> dict[str, Any]:
    return {"median": round(statistics.median(values), 3), "low": round(min(values), 3), "high": round(max(values), 3)}


if __name__ == "__main__":
    main()

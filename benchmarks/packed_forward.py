"""Predictions of a student on a CPU: packed rows and own kernels against transformers' padded batches.

    python -m benchmarks.packed_forward RUN [--rows 1000] [--rounds 3] [--isa AVX512_CORE_BF16]

RUN is the folder of a finished run of the form `read`, such as runs/market. Two ways of computing the first gold test
queries are compared, in turns in one process: padded batches of 32 through the model's own modules, which is how
`evaluate` and cross-fitting computed them before, and the packed forward pass of `student.packed_scores`. The check of
a sample and the copying of weights that it needs count, except in `without_check`. The merged model is in bf16, the
adapter in fp32 on a bf16 base, as in `evaluate` and in cross-fitting; `fp32` is the merged model in fp32, as in the
parity check, which does not pack. `--isa` restricts oneDNN, which shows a processor without AMX.

Expected, before it was run: four times for the adapter, two to three for the merged model: on a processor with AMX the
padded batches already run at 650 of 3,000 GFLOP/s that matrix products of this size reach, and half of the time of a
packed pass is products. In fp32 the products are nearly all, so less than two. Found: 2.8 times for the adapter
without the check, 2.2 with it on 1,000 rows, 2.1 and 1.9 for the merged model; without AMX 1.3 and none. Writes
benchmarks/results/packed_forward.json by processor and instruction set; other entries are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.h100_student import matmul_rate
from eval.quality import label_agreement
from limbeck.environment import device, git_commit, versions
from student.adapters import load_adapter
from student.estimate import KNOWN, training_flops
from student.inference import all_scores
from student.model import load_base
from student.packed_scores import packed_scores
from task.codec import load_codec
from task.files import read_json, write_json
from task.labels import Example
from task.model_store import fetch
from task.tokenizer import load_tokenizer

RESULT = Path(__file__).parent / "results" / "packed_forward.json"
BASE = "SmolLM2-135M-Instruct"


def main() -> None:
    """Compare, in a process of its own where the instruction set is restricted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--isa", help="the most that oneDNN may use (ONEDNN_MAX_CPU_ISA)")
    options = parser.parse_args()
    if options.isa and os.environ.get("ONEDNN_MAX_CPU_ISA") != options.isa:
        line = [sys.executable, "-m", "benchmarks.packed_forward", *sys.argv[1:]]
        subprocess.run(line, check=True, env=os.environ | {"ONEDNN_MAX_CPU_ISA": options.isa})
        return
    compare(options.run, options.rows, options.rounds, options.isa or "all")


def compare(run: Path, rows: int, rounds: int, isa: str) -> None:
    """Every model in both ways, round by round."""
    base = fetch(BASE)
    codec, tokenizer = load_codec(run / "merge"), load_tokenizer(base)
    gold = (run / "sample" / "gold_test.jsonl").read_text(encoding="utf-8").splitlines()
    queries = [str(json.loads(x)["query"]) for x in gold[:rows]]
    tokens = sum(len(codec.prompt(q, tokenizer).ids) for q in queries) / len(queries)
    bf16 = torch.bfloat16
    models: dict[str, Callable[[], Any]] = {
        "adapter": lambda: load_adapter(load_base(base, bf16), run / "train" / "adapter"),
        "merged": lambda: load_base(run / "merge" / "model", bf16),
        "fp32": lambda: load_base(run / "merge" / "model", torch.float32),
    }
    found: dict[str, Any] = {}
    for name, load in models.items():
        each: list[dict[str, float]] = []
        for _ in range(rounds):
            model = load()
            all_scores(model, codec, tokenizer, queries[:32], packed=False)  # oneDNN's first products are slower
            began = time.perf_counter()
            padded = all_scores(model, codec, tokenizer, queries, packed=False)
            middle = time.perf_counter()
            packed, check = packed_scores(model, codec, tokenizer, queries)
            end = time.perf_counter()
            assert check is not None
            all_scores(model, codec, tokenizer, queries)
            alone = time.perf_counter() - end
            each.append({
                "padded_rows_per_s": round(rows / (middle - began), 2),
                "packed_rows_per_s": round(rows / (end - middle), 2),
                "without_check_rows_per_s": round(rows / alone, 2),
            })
        labelled = ([Example(q, codec.decode_scores(q, s)) for q, s in zip(queries, side, strict=True)]
                    for side in (padded, packed))
        rates = {k: statistics.median(x[k] for x in each) for k in each[0]}
        flops = training_flops(KNOWN[BASE], tokens) / 2  # a forward pass alone; LoRA's products not counted
        found[name] = {
            "runs": each, "label_agreement": round(label_agreement(*labelled), 5), "check": check,
            **rates, "times": times(each, "packed_rows_per_s"),
            "times_without_check": times(each, "without_check_rows_per_s"),
            "gflops_per_row": round(flops / 1e9, 2),
        }
        print(name, found[name], flush=True)
    where = device()
    content = read_json(RESULT) if RESULT.exists() else {}
    write_json(RESULT, content | {f"{where['cpu']}, {isa}": {
        "rows": rows, "rounds": rounds, "tokens_per_row": round(tokens, 2),
        "matmul_gflops": round(matmul_rate("cpu") / 1e9), "models": found,
        "versions": versions(), "device": where, "git": git_commit(),
    }})
    print(RESULT)


def times(each: list[dict[str, float]], rate: str) -> dict[str, float]:
    """A rate over that of padded batches: the median of the rounds' ratios, the lowest and the highest."""
    ratios = [x[rate] / x["padded_rows_per_s"] for x in each]
    return {k: round(f(ratios), 2) for k, f in (("value", statistics.median), ("low", min), ("high", max))}


if __name__ == "__main__":
    main()

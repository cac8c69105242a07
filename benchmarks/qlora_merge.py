"""Merging QLoRA adapters on a CPU: train on an NF4 base, merge in four ways, compare each with the unmerged adapter.

    python -m benchmarks.qlora_merge runs/market [--steps 120] [--rows 300]

The curriculum of a finished run is learned by an adapter on the base in NF4 with double quantisation. The adapter on
that base, computed in fp32, is the truth. Against it stand: our merge into the base as NF4 had rounded it (stored in
bf16), our merge into the plain base, PEFT's merge into the 4-bit weights, and PEFT's merge into the plain base. Dev
queries of the run are read; the logits that decide are compared. The factor is PEFT's mean |Δlogit| over ours, both
for its own way of merging a quantised model. Expected: rounding a sum to NF4 moves weights by some 5 % of a block's
range, storing it in bf16 by 0.2 %, so a factor of ten and more. Found: a hundred, for what NF4 rounds away (3 to 5 %
of a layer's weights) is as large as all that the adapter has changed. Writes benchmarks/results/qlora_merge.json.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.quality import label_agreement
from limbeck.stage import device, git_commit, versions
from limbeck.student_jobs import make_job
from student.adapters import load_adapter
from student.inference import all_scores
from student.merging.merge import merge
from student.model import load_base
from student.training.train import train
from task.codec import Codec
from task.files import write_json
from task.labels import Example
from task.load import load_task
from task.settings import Student
from task.tokenizer import load_tokenizer
from teacher.curriculum.build import read

RESULT = Path(__file__).parent / "results" / "qlora_merge.json"


def main() -> None:
    """Train, merge, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run folder of the market")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rows", type=int, default=300)
    options = parser.parse_args()
    settings = {"student.quantization": "nf4", "student.max_steps": options.steps, "student.eval_every": options.steps}
    task = load_task(Path("configs/market.yaml"), [f"{k}={v}" for k, v in settings.items()]).task
    rows = read(options.run / "curriculum", "train")
    dev = [r.example for r in read(options.run / "curriculum", "dev")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = make_job(task, rows, dev[:100], folder, "shuffled")
        started = time.monotonic()
        train(job)
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        usable = [x for x in dev if job.codec.representable(x)][: options.rows]
        found = compare(job.base, folder, job.codec, task.student, usable)
    ours, theirs = found["into the base as NF4 had it"], found["PEFT, into 4 bits"]
    write_json(RESULT, {
        "base": task.student.base, "steps": options.steps, "rows": len(usable), "seconds": round(seconds, 1),
        "peak_mb": round(peak), "merges": found,
        "factor": round(theirs["mean_logit_delta"] / ours["mean_logit_delta"], 1), "versions": versions(),
        "device": device(), "git": git_commit(),
    })
    print(RESULT.read_text())


def compare(base: Path, folder: Path, codec: Codec, student: Student, rows: list[Example]) -> dict[str, Any]:
    """Every merge against the adapter on the base that it was trained against, all computed in fp32."""
    tokenizer = load_tokenizer(base)
    queries = [x.query for x in rows]
    adapter = folder / "adapter"

    def scores(model: Any) -> list[Any]:
        return all_scores(model, codec, tokenizer, queries)

    truth = scores(load_adapter(load_base(base, torch.float32, student), adapter))
    merge(base, adapter, folder / "rounded", student)
    merge(base, adapter, folder / "plain", student.model_copy(update={"merge_base": "plain"}))
    models = {
        "into the base as NF4 had it": lambda: load_base(folder / "rounded", torch.float32),
        "into the plain base": lambda: load_base(folder / "plain", torch.float32),
        "PEFT, into 4 bits": lambda: load_adapter(load_base(base, torch.float32, student), adapter).merge_and_unload(),
        "PEFT, into the plain base": lambda: load_adapter(
            load_base(base, torch.bfloat16), adapter
        ).merge_and_unload().float(),
    }
    out = {}
    for name, make in models.items():
        said = scores(make())
        delta = np.abs(np.concatenate(truth) - np.concatenate(said))
        left, right = ([Example(q, codec.decode_scores(q, s)) for q, s in zip(queries, side, strict=True)]
                       for side in (truth, said))
        out[name] = {
            "mean_logit_delta": round(float(delta.mean()), 6), "max_logit_delta": round(float(delta.max()), 4),
            "label_agreement": round(label_agreement(left, right), 6),
        }
        print(name, out[name], flush=True)
    return out


if __name__ == "__main__":
    main()

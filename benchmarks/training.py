"""Training speed: Limbeck's loop against TRL's SFTTrainer, same base, rows, adapter, batch and machine.

    python -m benchmarks.training DATA [--rounds 3] [--work FOLDER]

DATA is a folder with QueryNER's train.jsonl and dev.jsonl. With FOLDER an interrupted benchmark goes on where it was.

SmolLM2-135M, LoRA of rank 16 on all linear layers, the first 1,024 training rows, batch 32, one epoch. Each client
trains in its own process; rounds alternate. `limbeck-write` and TRL train on the same ids and targets (TRL with length
grouping, bf16, no gradient checkpointing, the loss on the answer only): `trl-write` with a model's default attention,
`trl-write-eager` with the implementation that Limbeck uses on CPUs. `limbeck-read` trains the form that generates
nothing; `trl-json`, eager as well, JSON answers in the base's chat template, untruncated, on the first 128 rows.
Seconds are those of the steps, without loading and tokenising. The final loss is computed by the same code for all
`write` adapters, over all rows; dev F1 by decoding 300 development rows. TRL is not part of the installation: `pip
install --no-deps trl`. Expected: with logits at targets only, packed rows and fused products more than twice TRL's
speed on `write`, more on `read`, which has no answer tokens. Found: no more on `read`, whose prompt has the query
twice; and it depends on the processor. Writes benchmarks/results/training.json by processor; results of other
processors are kept.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.h100_student import matmul_rate
from eval.bootstrap import draw
from eval.matching import count
from eval.metrics import MICRO, of_table
from limbeck.environment import device, git_commit, versions
from student.adapters import load_adapter
from student.estimate import KNOWN, training_flops
from student.inference import predict
from student.kernels.native import Kernels, kernels
from student.model import TargetLogits, collate, dtype_on, load_base
from student.training.history import read_history
from student.training.job import TrainingJob
from student.training.train import train
from task.codec import Codec
from task.files import read_json, write_json
from task.forms import json_text as json_form
from task.load import load_task
from task.model_store import fetch
from task.normalize import normaliser
from task.readers import read_labels
from task.spec import Task
from task.tokenizer import load_tokenizer
from task.training_row import TrainingRow

RESULT = Path(__file__).parent / "results" / "training.json"
ROWS, JSON_ROWS, DEV_ROWS, BATCH, RATE, WARM_UP = 1_024, 128, 300, 32, 1e-3, 4
CLIENTS = ("limbeck-read", "limbeck-write", "trl-write", "trl-write-eager", "trl-json")


def main() -> None:
    """Run every client in turn, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where the runs are kept; finished ones are not repeated")
    parser.add_argument("--client", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--profile", action="store_true", help="print where Limbeck's time goes, and nothing else")
    options = parser.parse_args()
    if options.client:
        run(options.client, options.data, options.folder, profile=options.profile)
    elif options.profile:
        with tempfile.TemporaryDirectory() as name:
            run("limbeck-read", options.data, Path(name), profile=True)
    elif options.work:
        compare(options.data, options.rounds, options.work)
    else:
        with tempfile.TemporaryDirectory() as name:
            compare(options.data, options.rounds, Path(name))


def compare(data: Path, rounds: int, work: Path) -> None:
    """All clients, round by round; the quality of the first round's adapters."""
    found: dict[str, dict[str, Any]] = {c: {"runs": []} for c in CLIENTS}
    task = task_of(data, "read")
    for number in range(rounds):
        order = CLIENTS if number % 2 == 0 else CLIENTS[::-1]
        for client in order:
            if client == "trl-json" and number:
                continue  # it differs by an order of magnitude, so one round is enough
            folder = work / f"{client}-{number}"
            result = folder / "result.json"
            if not result.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                line = [sys.executable, "-m", "benchmarks.training", str(data), "--client", client]
                subprocess.run([*line, "--folder", str(folder)], check=True)
            found[client]["runs"].append(read_json(result))
            print(client, found[client]["runs"][-1], flush=True)
    for client in CLIENTS:
        rates = [r["examples_per_s"] for r in found[client]["runs"]]
        found[client]["examples_per_s"] = {
            "median": round(statistics.median(rates), 2), "low": min(rates), "high": max(rates)
        }
        if client != "trl-json":
            found[client] |= quality(data, client, work / f"{client}-0" / "adapter")
            print(client, found[client], flush=True)
    for client in CLIENTS[:-1]:
        shares = []
        for r in found[client]["runs"]:
            flops = training_flops(KNOWN[task.student.base], r["tokens"] / r["rows"] * r["examples_per_s"])
            shares.append(flops / r["matmul_gflops"] / 1e9)
        found[client]["share_of_matmul_rate"] = round(statistics.median(shares), 3)
    where = device()
    content = read_json(RESULT) if RESULT.exists() else {}
    write_json(RESULT, content | {where["cpu"]: {
        "rows": ROWS, "json_rows": JSON_ROWS, "dev_rows": DEV_ROWS, "batch": BATCH, "rounds": rounds,
        "matmul_gflops": round(statistics.median(r["matmul_gflops"] for c in found.values() for r in c["runs"])),
        "clients": found,
        "times_trl": {c: times(found[c], found["trl-write"]) for c in CLIENTS},
        "times_trl_eager": {c: times(found[c], found["trl-write-eager"]) for c in CLIENTS},
        "versions": versions() | {"trl": _trl()}, "device": where, "git": git_commit(),
    }})
    print(RESULT)


def times(client: dict[str, Any], reference: dict[str, Any]) -> dict[str, float]:
    """A client's median rate over the reference's, and the minimum and maximum over rounds.

    The slowest client runs in one round only and is compared with all rounds of the reference.
    """
    ours, theirs = ([r["examples_per_s"] for r in x["runs"]] for x in (client, reference))
    pairs = zip(ours, theirs, strict=True) if len(ours) == len(theirs) else itertools.product(ours, theirs)
    each = [a / b for a, b in pairs]
    value = client["examples_per_s"]["median"] / reference["examples_per_s"]["median"]
    return {"value": round(value, 2), "low": round(min(each), 2), "high": round(max(each), 2)}


def run(client: str, data: Path, folder: Path, *, profile: bool) -> None:
    """Train one client's adapter into `folder/adapter`; its speed goes to `folder/result.json`."""
    form = client.split("-")[1]
    task = task_of(data, form)
    base = fetch(task.student.base)
    tokenizer = load_tokenizer(base)
    rows = read_labels(data / "train.jsonl", task)[: JSON_ROWS if form == "json" else ROWS]
    codec = Codec.compile(task, rows, tokenizer)
    usable = [x for x in rows if codec.representable(x)]
    encoded = [codec.encode(x, tokenizer) for x in usable]
    if client.startswith("limbeck"):
        job = TrainingJob(task, base, codec, [TrainingRow(x) for x in usable], [], folder, reshuffle=True)
        seconds = _limbeck(job, profile=profile)
    elif form == "write":
        table = {
            "input_ids": [[*e.ids, e.targets[-1]] for e in encoded],
            "completion_mask": [[0] * (len(e.ids) + 1 - len(e.targets)) + [1] * len(e.targets) for e in encoded],
        }
        seconds = _trl_train(base, table, folder, attention="eager" if client.endswith("eager") else None)
    else:
        table = {
            "prompt": [[{"role": "system", "content": task.instructions}, {"role": "user", "content": x.query}]
                       for x in usable],
            "completion": [[{"role": "assistant", "content": json_form.render(x)}] for x in usable],
        }
        seconds = _trl_train(base, table, folder, attention="eager")
    timed = len(usable) - WARM_UP * BATCH if len(usable) > 2 * WARM_UP * BATCH else len(usable)
    write_json(folder / "result.json", {
        "seconds": round(seconds, 2), "examples_per_s": round(timed / seconds, 2),
        "tokens": sum(len(e.ids) for e in encoded), "rows": len(usable),
        "matmul_gflops": round(matmul_rate("cpu") / 1e9),
    })


def _limbeck(job: TrainingJob, *, profile: bool) -> float:
    """Seconds of the steps after the warm-up."""
    if profile:
        from torch.profiler import ProfilerActivity
        from torch.profiler import profile as profiler

        _name_kernels(kernels(dtype_on("cpu", job.task.student.dtype)))
        with profiler(activities=[ProfilerActivity.CPU]) as found:
            train(job, threads=torch.get_num_threads())
        print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))
    else:
        train(job, threads=torch.get_num_threads())
    history = read_history(job.folder / "history.jsonl")
    return float(sum(h["seconds"] for h in history[WARM_UP if len(history) > 2 * WARM_UP else 0 :]))


def _name_kernels(functions: Kernels | None) -> None:
    """Make the calls of `student.kernels.native` visible to the profiler, which records torch's operations only."""

    def named(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any) -> None:
            with torch.profiler.record_function(f"limbeck::{name}"):
                call(*arguments)

        return run

    if functions is not None:
        functions._call.update({name: named(name, call) for name, call in functions._call.items()})


def _trl_train(base: Path, table: dict[str, Any], folder: Path, *, attention: str | None) -> float:
    """Seconds of the same with TRL, at its best options; `attention` is transformers' name of it, None the default."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.at: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.at.append(time.perf_counter())

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, attn_implementation=attention)
    tokenizer = AutoTokenizer.from_pretrained(base)
    clock = Clock()
    trainer = SFTTrainer(
        model=model, processing_class=tokenizer, train_dataset=Dataset.from_dict(table), callbacks=[clock],
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        args=SFTConfig(
            output_dir=str(folder / "trl"), per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=RATE,
            lr_scheduler_type="cosine", warmup_steps=4, bf16=True, use_cpu=True, gradient_checkpointing=False,
            train_sampling_strategy="group_by_length", completion_only_loss=True, max_length=None,
            report_to="none", save_strategy="no", logging_steps=1, optim="adamw_torch_fused", disable_tqdm=True,
        ),
    )
    started = time.perf_counter()
    trainer.train()
    trainer.model.save_pretrained(folder / "adapter")
    skipped = clock.at[WARM_UP - 1] if len(clock.at) > 2 * WARM_UP else started
    return clock.at[-1] - skipped


def quality(data: Path, client: str, adapter: Path) -> dict[str, Any]:
    """Loss over the training rows' targets and micro-F1 on development rows, by the same code for all clients."""
    task = task_of(data, client.split("-")[1])
    base = fetch(task.student.base)
    tokenizer = load_tokenizer(base)
    rows = read_labels(data / "train.jsonl", task)[:ROWS]
    codec = Codec.compile(task, rows, tokenizer)
    model = load_adapter(load_base(base, torch.bfloat16), adapter).eval()
    out: dict[str, Any] = {}
    if codec.form == "write":
        logits, total, targets = TargetLogits(model, None), 0.0, 0
        encoded = [codec.encode(x, tokenizer) for x in rows if codec.representable(x)]
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            for at in range(0, len(encoded), BATCH):
                ids, row_of, columns, wanted = collate(encoded[at : at + BATCH])
                scores = logits(ids, rows=row_of, columns=columns)
                total += float(torch.nn.functional.cross_entropy(scores, wanted, reduction="sum"))
                targets += len(wanted)
        out["loss"] = round(total / targets, 4)
    dev = read_labels(data / "dev.jsonl", task)[:DEV_ROWS]
    table = count(
        dev, predict(model, codec, tokenizer, task, dev), [r.name for r in task.roles], "span",
        normaliser(task.normaliser),
    )
    drawn = draw(table, resamples=10_000, seed=0)
    return out | {"dev_f1": drawn.estimate(of_table(MICRO["f1"], len(task.roles)), 0.95)}


def task_of(data: Path, form: str) -> Task:
    """QueryNER's task with the benchmark's student."""
    settings = {
        "data.dir": str(data.resolve()), "student.form": form, "student.epochs": "1", "student.batch_size": str(BATCH),
        "student.learning_rate": str(RATE), "student.warmup_steps": "4", "student.eval_every": "100000",
        "student.save_every": "100000", "student.keep_best": "false",
    }
    return load_task(Path("configs/queryner.yaml"), [f"{k}={v}" for k, v in settings.items()]).task


def _trl() -> str:
    from importlib.metadata import version

    return version("trl")


if __name__ == "__main__":
    main()

"""The training run: one worker function under Ray Train, the same on one CPU and on many GPUs.

The loss is the sum over supervised tokens divided by their number in the whole step: over all ranks and all
accumulated micro-batches (a mean of means weighs short answers more; transformers PR 34191). Every random choice is a
function of seed and step, so a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from student import checkpoint
from student.fused import fuse
from student.infer import predict
from student.model import TargetLogits, add_adapter, alphabet_of, collate, load_adapter, load_base
from student.order import learning_rate, plan_batches, share_of_rank, total_steps
from task.codec import Codec, Encoded
from task.files import read_json, write_json
from task.labels import Example, Label
from task.spec import Task
from task.tokens import load_tokenizer

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Job:
    """All that a worker needs; travels to it as JSON."""

    task: Task
    base: Path
    codec: Codec
    train: list[Example]
    dev: list[Example]
    folder: Path
    reshuffle: bool

    def write(self, path: Path) -> None:
        """Put the job where every worker can read it; workers run in another directory, so paths are absolute."""
        write_json(path, {
            "task": self.task.model_dump(mode="json"), "base": str(self.base.resolve()), "codec": self.codec.to_json(),
            "train": [x.to_json() for x in self.train], "dev": [x.to_json() for x in self.dev],
            "folder": str(self.folder.resolve()), "reshuffle": self.reshuffle,
        })

    @classmethod
    def read(cls, path: Path) -> Job:
        """The inverse of `write`."""
        v = read_json(path)

        def examples(rows: list[dict[str, Any]]) -> list[Example]:
            return [Example(r["query"], tuple(Label.from_json(x) for x in r["labels"]), r["count"]) for r in rows]

        return cls(
            Task.model_validate(v["task"]), Path(v["base"]), Codec.from_json(v["codec"]), examples(v["train"]),
            examples(v["dev"]), Path(v["folder"]), v["reshuffle"],
        )


def train(job: Job, rank: int = 0, world: int = 1, device: str = "cpu", threads: int | None = None) -> None:
    """Train to the end, from the newest checkpoint if there is one; rank 0 writes.

    Writes into `job.folder`: `checkpoints/`, `history.jsonl` (a line per step), `adapter/` and `order.json`.
    """
    if threads:
        torch.set_num_threads(threads)
    s = job.task.student
    tokenizer = load_tokenizer(job.base)
    encoded = [job.codec.encode(x, tokenizer) for x in job.train]
    steps = total_steps(len(encoded), s.batch_size, s.epochs, s.max_steps)
    batches = plan_batches(
        [len(e.ids) for e in encoded], batch_size=s.batch_size, steps=steps, reshuffle=job.reshuffle,
        window=s.length_window, seed=s.seed,
    )
    dtype = DTYPES[s.dtype]
    base = load_base(job.base, dtype, s)
    if s.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
        base.enable_input_require_grads()
    start = checkpoint.newest(job.folder / "checkpoints")
    model = load_adapter(base, start / "adapter", trainable=True) if start else add_adapter(base, s)
    if s.quantization == "none":
        model.to(device)
    fuse(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=s.learning_rate, weight_decay=0.0, fused=True)
    first, digest = 0, ""
    if start:
        state = checkpoint.read_state(start)
        checkpoint.load_optimizer(start, optimizer)
        first, digest = state["step"], state["order"]
        _forget_after(job.folder / "history.jsonl", first)
    logits = TargetLogits(model, alphabet_of(job.codec))
    model.train()
    for step in range(first, steps):
        torch.manual_seed(s.seed * 1_000_003 + step * 1_009 + rank)
        started = time.monotonic()
        rate = learning_rate(
            step, peak=s.learning_rate, warmup=s.warmup_steps, steps=steps, schedule=s.schedule
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = share_of_rank(batches[step], rank, world)
        loss, tokens = _step(logits, [encoded[i] for i in rows], job, parameters, optimizer, world, device, dtype)
        digest = hashlib.sha256(f"{digest}{batches[step]}".encode()).hexdigest()
        if rank:
            continue
        line: dict[str, Any] = {
            "step": step + 1, "of": steps, "loss": round(loss, 6), "lr": rate, "targets": tokens,
            "rows": len(batches[step]), "seconds": round(time.monotonic() - started, 4),
        }
        last = step + 1 == steps
        if (step + 1) % s.eval_every == 0 or last:
            line["dev_f1"] = round(_dev_f1(job, model, tokenizer, device), 6)
            model.train()
        _append(job.folder / "history.jsonl", line)
        if (step + 1) % s.save_every == 0 or last:
            checkpoint.save(job.folder / "checkpoints", step + 1, model, optimizer, {"order": digest})
    if rank == 0:
        model.save_pretrained(str(job.folder / "adapter"), safe_serialization=True)
        write_json(job.folder / "order.json", {"steps": steps, "sha256": digest, "planned": order_digest(batches)})


def order_digest(batches: Sequence[Sequence[int]]) -> str:
    """Digest of a planned order, equal to the recorded one when the plan was followed."""
    digest = ""
    for batch in batches:
        digest = hashlib.sha256(f"{digest}{list(batch)}".encode()).hexdigest()
    return digest


def _step(
    logits: TargetLogits, examples: Sequence[Encoded], job: Job, parameters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer, world: int, device: str, dtype: torch.dtype,
) -> tuple[float, int]:
    """One optimiser step; returns the loss per supervised token over all ranks, and their number."""
    s = job.task.student
    index = {t: i for i, t in enumerate(job.codec.symbol_ids)} if job.codec.form == "read" else None
    totals = torch.tensor([sum(len(e.targets) for e in examples), 0.0], dtype=torch.float64)
    if world > 1:
        dist.all_reduce(totals)
    tokens = float(totals[0])
    micro = -(-len(examples) // s.accumulation) if examples else 1
    summed = 0.0
    for at in range(0, len(examples), micro):
        ids, rows, columns, targets = collate(examples[at : at + micro], device)
        if index is not None:
            targets = torch.tensor([index[int(t)] for t in targets], device=device)
        mixed = torch.autocast(device.split(":")[0], dtype=dtype) if dtype != torch.float32 else nullcontext()
        with mixed:
            scores = logits(ids, rows, columns)
        loss = torch.nn.functional.cross_entropy(scores, targets, reduction="sum")
        torch.autograd.backward(loss / tokens)
        summed += float(loss.detach())
    if world > 1:
        _reduce_gradients(parameters)
        both = torch.tensor([summed], dtype=torch.float64)
        dist.all_reduce(both)
        summed = float(both)
    torch.nn.utils.clip_grad_norm_(parameters, s.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return summed / tokens, int(tokens)


def _reduce_gradients(parameters: Sequence[Tensor]) -> None:
    """Sum the adapter's gradients over ranks, in one message: they are small, and already divided by the total."""
    for p in parameters:
        if p.grad is None:  # a rank without rows in this step
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    at = 0
    for p in parameters:
        p.grad = flat[at : at + p.numel()].view_as(p)
        at += p.numel()


def _dev_f1(job: Job, model: Any, tokenizer: Any, device: str) -> float:
    """Micro-F1 by role and normalised value on the first dev rows, by real decoding."""
    from eval.match import count
    from eval.metrics import micro
    from task.normalize import normaliser

    dev = job.dev[: job.task.student.eval_rows]
    if not dev:
        return 0.0
    found = predict(model, job.codec, tokenizer, job.task, dev, device=device)
    table = count(dev, found, [r.name for r in job.task.roles], "value", normaliser(job.task.normaliser))
    score = float(micro(table.sum(axis=0))[2])
    return score if score == score else 0.0


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that will be taken again."""
    if path.exists():
        lines = [x for x in path.read_text().splitlines() if x.endswith("}") and json.loads(x)["step"] <= step]
        path.write_text("".join(x + "\n" for x in lines))


def worker(config: dict[str, Any]) -> None:
    """The function that Ray Train runs on every worker."""
    import ray.train

    context = ray.train.get_context()
    job = Job.read(Path(config["job"]))
    s = job.task.student
    device = "cuda" if s.use_gpu else "cpu"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    train(job, context.get_world_rank(), context.get_world_size(), device, None if s.use_gpu else config["threads"])
    ray.train.report({"done": 1})

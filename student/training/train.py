"""The training run: one worker function under Ray Train, the same on one CPU and on many GPUs.

The loss is the sum over supervised tokens, each times its weight, divided by the weights of the whole step: over all
ranks and all accumulated micro-batches (a mean of means gives short answers more weight; transformers PR 34191). Every
random choice is a function of seed and step, so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import math
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from student import padding_free
from student.adapters import add_adapter, load_adapter, write_adapter
from student.inference import predict
from student.kernels.fused_lora import fuse
from student.kernels.packed_llama import pack
from student.model import TargetLogits, alphabet_of, dtype_on, load_base
from student.training import checkpoint, reporters
from student.training.history import append, read_history, truncate_after
from student.training.job import TrainingJob
from student.training.malloc_settings import keep_freed_memory
from student.training.model_selection import Selection
from student.training.objective import Supervised, batch, gce_q, supervise, weighted_loss
from student.training.optimizer import make_optimizer
from student.training.order import (
    extend_digest,
    learning_rate,
    order_digest,
    plan_batches,
    share_of_rank,
    total_steps,
)
from student.training.sharding import micro_batch_size, most_micro_batches, shard
from task.errors import ComponentError
from task.files import write_json
from task.tokenizer import load_tokenizer

_PROOF = 16  # rows


def train(
    job: TrainingJob, *, rank: int = 0, world: int = 1, device: str = "cpu", threads: int | None = None
) -> None:
    """Train to the end, from the newest checkpoint if there is one; only rank 0 writes.

    Writes into `job.folder`: `checkpoints/`, `history.jsonl` (a line per step), `best/` (the adapter with the best dev
    F1 so far), and in the end `adapter/`, `order.json` and `measured.json`.

    Args:
        rank: This process among the `world` processes of the run.
        threads: Torch's threads on a CPU; None leaves them as they are.

    Raises:
        OSError: A checkpoint could not be written.
        ComponentError: A loss is no finite number.
    """
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    memory_before = _peak_memory(device)
    s = job.task.student
    tokenizer = load_tokenizer(job.base)
    by_confidence = s.weighting == "confidence"
    rows = [supervise(job.codec, tokenizer, row, by_confidence=by_confidence) for row in job.train]
    steps = total_steps(len(rows), batch_size=s.batch_size, epochs=s.epochs, max_steps=s.max_steps)
    batches = plan_batches(
        [len(r.encoded.ids) for r in rows], batch_size=s.batch_size, steps=steps, reshuffle=job.reshuffle,
        window=s.length_window, seed=s.seed,
    )
    dtype = dtype_on(device, s.dtype)
    start = checkpoint.newest(job.folder / "checkpoints")
    model = _model(job, start, rows, dtype=dtype, device=device, world=world)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, s)
    first, digest, selection = _resume(job, start, optimizer)
    if rank == 0:
        truncate_after(job.folder / "history.jsonl", first)
    sinks = [] if rank else reporters.make_reporters(
        s.report_to, job.folder, run=job.task.name, config=s.model_dump(mode="json"), first=first
    )
    logits = TargetLogits(model, alphabet_of(job.codec, s))
    model.train()
    step = first
    while step < steps and not selection.stop:
        torch.manual_seed(s.seed * 1_000_003 + step * 1_009 + rank)
        started = time.monotonic()
        rate = learning_rate(
            step, peak=s.learning_rate, warmup=s.warmup_steps, steps=steps, schedule=s.schedule
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, tokens = _step(
            logits, _micro_batches(rows, batches[step], rank=rank, world=world, accumulation=s.accumulation), job=job,
            parameters=parameters, optimizer=optimizer, world=world, device=device, dtype=dtype,
            robust=gce_q(step, wanted=s.robust, steps=steps),
        )
        seconds = time.monotonic() - started
        if not math.isfinite(loss):
            raise ComponentError(
                f"the loss of step {step + 1} of {steps} is {loss}, and every later one would be no number either. "
                "Lower student.learning_rate, or look for weights that are no numbers in student.base and init_adapter"
            )
        digest = extend_digest(digest, batches[step])
        step += 1
        scored = bool(job.dev) and (step % s.eval_every == 0 or step == steps)
        if scored:
            f1 = round(_dev_f1(job, model, tokenizer, rank=rank, world=world, device=device), 6)
            better = selection.improved(step, f1)  # on every rank alike: all stop at the same step, or they deadlock
            model.train()
        if rank == 0:
            line: dict[str, Any] = {
                "step": step, "of": steps, "loss": round(loss, 6), "lr": rate, "targets": tokens,
                "rows": len(batches[step - 1]), "seconds": round(seconds, 4),
            }
            if scored:
                line["dev_f1"] = f1
                if better and s.keep_best:
                    checkpoint.save_adapter(job.folder / "best", model)
            append(job.folder / "history.jsonl", line)
            for reporter in sinks:
                reporter.log(line)
        if rank == 0 and (step % s.save_every == 0 or step == steps or selection.stop):
            state = {"order": digest, **selection.state()}
            checkpoint.save(job.folder / "checkpoints", step, model, optimizer, state)
    if rank == 0:
        for reporter in sinks:
            reporter.close()
        _finish(job, model, selection, step, {"sha256": digest, "planned": order_digest(batches[:step])})
        write_json(job.folder / "measured.json", {
            "trained": sum(p.numel() for p in parameters), "steps": step,
            "tokens": sum(len(rows[i].encoded.ids) for b in batches[:step] for i in b),
            "memory_bytes": _peak_memory(device) - memory_before,
            "seconds": round(sum(h["seconds"] for h in read_history(job.folder / "history.jsonl")), 3),
        })


def _model(
    job: TrainingJob, start: Path | None, rows: Sequence[Supervised], *, dtype: torch.dtype, device: str, world: int
) -> Any:
    """Base and adapter; the adapter of the checkpoint `start` if given, else a new one.

    Args:
        rows: The first of them prove that computing no padding changes nothing, where a GPU is to do so.
    """
    s = job.task.student
    base = load_base(job.base, dtype, s)
    if s.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
        base.enable_input_require_grads()
    model = load_adapter(base, start / "adapter", trainable=True) if start else add_adapter(base, s)
    if s.quantization == "none":
        model.to(device)
    if s.sharding == "full" and world > 1:
        shard(model, world, device)
    else:
        fuse(model)
        pack(model)
    if device.startswith("cuda"):
        padding_free.enable(model, [r.encoded for r in rows[:_PROOF]], alphabet_of(job.codec, s), device=device)
    return model


def _resume(job: TrainingJob, start: Path | None, optimizer: torch.optim.Optimizer) -> tuple[int, str, Selection]:
    """Steps of a checkpoint, the digest of their order and the selection; restores the optimiser's state."""
    if start is None:
        return 0, "", Selection(job.task.student.early_stop)
    state = checkpoint.read_state(start)
    checkpoint.load_optimizer(start, optimizer)
    return state["step"], state["order"], Selection.resume(job.task.student.early_stop, state)


def _finish(job: TrainingJob, model: Any, selection: Selection, steps: int, order: dict[str, str]) -> None:
    """Write the selected adapter and `order.json`."""
    chosen, best = job.folder / "adapter", job.folder / "best"
    if job.task.student.keep_best and best.exists():
        shutil.copytree(best, chosen, dirs_exist_ok=True)
    else:
        write_adapter(model, chosen)
    kept = selection.step if job.task.student.keep_best and best.exists() else steps
    write_json(job.folder / "order.json", {"steps": steps, "adapter_of_step": kept, **order})


def _micro_batches(
    rows: Sequence[Supervised], batch: Sequence[int], *, rank: int, world: int, accumulation: int
) -> list[list[Supervised]]:
    """A rank's rows of a step in micro-batches, as many as every other rank has.

    A rank with fewer adds micro-batches of one row with zero weights: with unequal numbers collectives deadlock.
    """
    share = share_of_rank(batch, rank=rank, world=world)
    size = micro_batch_size(len(share), accumulation=accumulation)
    out = [[rows[i] for i in share[at : at + size]] for at in range(0, len(share), size)]
    spare = rows[batch[0]]
    nothing = Supervised(spare.encoded, [0.0] * len(spare.weights))
    most = most_micro_batches([len(share_of_rank(batch, rank=r, world=world)) for r in range(world)], accumulation)
    return out + [[nothing]] * (most - len(out))


def _step(
    logits: TargetLogits, micro_batches: Sequence[Sequence[Supervised]], *, job: TrainingJob,
    parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer, world: int, device: str, dtype: torch.dtype,
    robust: float,
) -> tuple[float, int]:
    """One optimiser step: the weighted mean of the loss over all ranks, and the number of targets with a weight."""
    s = job.task.student
    alphabet = alphabet_of(job.codec, s)
    index = None if alphabet is None else {t: i for i, t in enumerate(alphabet)}
    totals = torch.tensor(
        [sum(sum(r.weights) for m in micro_batches for r in m),
         sum(w > 0 for m in micro_batches for r in m for w in r.weights)], dtype=torch.float64,
    )
    if world > 1:
        dist.all_reduce(totals)
    whole = max(float(totals[0]), 1e-9)  # no division by zero where a whole step is masked
    summed = 0.0
    for rows in micro_batches:
        ids, row_of, columns, targets, weights = batch(rows, device)
        if index is not None:
            targets = torch.tensor([index[int(t)] for t in targets], device=device)
        mixed = torch.autocast(device.split(":")[0], dtype=dtype) if dtype != torch.float32 else nullcontext()
        with mixed:
            scores = logits(ids, rows=row_of, columns=columns)
        loss = weighted_loss(scores, targets, weights, smoothing=s.label_smoothing, robust=robust)
        torch.autograd.backward(loss / whole)
        summed += float(loss.detach())
    if world > 1:
        _reduce_gradients(parameters)
        both = torch.tensor([summed], dtype=torch.float64)
        dist.all_reduce(both)
        summed = float(both)
    torch.nn.utils.clip_grad_norm_(parameters, s.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return summed / whole, int(totals[1])


def _reduce_gradients(parameters: Sequence[Tensor]) -> None:
    """Sum the adapter's gradients over ranks in one all-reduce; they are already divided by the total weight."""
    for p in parameters:
        if p.grad is None:  # no rows on this rank in this step
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    at = 0
    for p in parameters:
        p.grad = flat[at : at + p.numel()].view_as(p)
        at += p.numel()


def _dev_f1(job: TrainingJob, model: Any, tokenizer: Any, *, rank: int, world: int, device: str) -> float:
    """Micro-F1 by role and normalised value on the first `eval_rows` dev rows, decoded as in serving.

    Every rank labels its share, so that none waits for longer than its own forward passes; the counts are summed.
    """
    from eval.matching import count
    from eval.metrics import micro
    from task.normalize import normaliser

    dev = job.dev[: job.task.student.eval_rows]
    whole = job.task.student.sharding == "full"  # all ranks gather a layer together, so all compute the same batches
    share = dev if whole else dev[rank::world]
    found = predict(model, job.codec, tokenizer, job.task, share, device=device)
    table = count(share, found, [r.name for r in job.task.roles], "value", normaliser(job.task.normaliser))
    counts = torch.from_numpy(table.sum(axis=0))
    if world > 1 and not whole:
        dist.all_reduce(counts)
    score = float(micro(counts.numpy())[2])
    return score if score == score else 0.0


def _peak_memory(device: str) -> int:
    """Peak memory of this process so far, in bytes: GPU memory on a GPU, else resident memory."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def worker(config: dict[str, Any]) -> None:
    """The function that Ray Train runs on every worker."""
    import ray.train

    context = ray.train.get_context()
    job = TrainingJob.read(Path(config["job"]))
    s = job.task.student
    device = "cuda" if s.use_gpu else "cpu"
    train(
        job, rank=context.get_world_rank(), world=context.get_world_size(), device=device,
        threads=None if s.use_gpu else config["threads"],
    )
    ray.train.report({"done": 1})

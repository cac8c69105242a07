"""The training run: one worker function under Ray Train, the same on one CPU and on many GPUs.

The loss is the sum over supervised tokens, each times its weight, divided by the weights of the whole step: over all
ranks and all accumulated micro-batches (a mean of means weighs short answers more; transformers PR 34191). Every
random choice is a function of seed and step, so a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

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

from student.adapters import add_adapter, load_adapter
from student.inference import predict
from student.kernels.fused_lora import fuse
from student.kernels.packed_llama import pack
from student.model import DTYPES, TargetLogits, alphabet_of, load_base
from student.training import checkpoint, reporters
from student.training.history import append, forget_after, read_history
from student.training.job import Job
from student.training.malloc_settings import keep_what_is_freed
from student.training.model_selection import Selection
from student.training.objective import Supervised, batch, robustness, supervise, weighted_loss
from student.training.optimizer import make_optimizer
from student.training.order import chained, learning_rate, order_digest, plan_batches, share_of_rank, total_steps
from student.training.sharding import micro_size, shard, turns
from task.files import write_json
from task.tokenizer import load_tokenizer


def train(job: Job, rank: int = 0, world: int = 1, device: str = "cpu", threads: int | None = None) -> None:
    """Train to the end, from the newest checkpoint if there is one; rank 0 writes.

    Writes into `job.folder`: `checkpoints/`, `history.jsonl` (a line per step), `best/` (the adapter with the best dev
    F1 so far), and in the end `adapter/`, `order.json` and `measured.json`.
    """
    if threads:
        torch.set_num_threads(threads)
    keep_what_is_freed()
    before = _memory(device)
    s = job.task.student
    tokenizer = load_tokenizer(job.base)
    weigh = s.weighting == "confidence"
    rows = [supervise(job.codec, tokenizer, row, by_confidence=weigh) for row in job.train]
    steps = total_steps(len(rows), s.batch_size, s.epochs, s.max_steps)
    batches = plan_batches(
        [len(r.encoded.ids) for r in rows], batch_size=s.batch_size, steps=steps, reshuffle=job.reshuffle,
        window=s.length_window, seed=s.seed,
    )
    dtype = DTYPES[s.dtype]
    start = checkpoint.newest(job.folder / "checkpoints")
    model = _model(job, start, dtype, device, world)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, s)
    first, digest, selection = _resume(job, start, optimizer)
    if rank == 0:
        forget_after(job.folder / "history.jsonl", first)
    watched = [] if rank else reporters.make_reporters(
        s.report_to, job.folder, job.task.name, s.model_dump(mode="json"), first
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
            logits, _micro_batches(rows, batches[step], rank, world, s.accumulation), job, parameters, optimizer, world,
            device, dtype, robustness(step, wanted=s.robust, steps=steps),
        )
        seconds = time.monotonic() - started
        digest = chained(digest, batches[step])
        step += 1
        scored = bool(job.dev) and (step % s.eval_every == 0 or step == steps)
        if scored and (rank == 0 or s.sharding == "full"):  # a sliced base is put together by all ranks or by none
            f1 = _dev_f1(job, model, tokenizer, device)
            model.train()
        if rank == 0:
            line: dict[str, Any] = {
                "step": step, "of": steps, "loss": round(loss, 6), "lr": rate, "targets": tokens,
                "rows": len(batches[step - 1]), "seconds": round(seconds, 4),
            }
            if scored:
                line["dev_f1"] = round(f1, 6)
                if selection.improved(step, line["dev_f1"]) and s.keep_best:
                    checkpoint.save_adapter(job.folder / "best", model)
            append(job.folder / "history.jsonl", line)
            for reporter in watched:
                reporter.log(line)
        if scored and world > 1:
            _agree(selection)
        if rank == 0 and (step % s.save_every == 0 or step == steps or selection.stop):
            state = {"order": digest, **selection.state()}
            checkpoint.save(job.folder / "checkpoints", step, model, optimizer, state)
    if rank == 0:
        for reporter in watched:
            reporter.close()
        _finish(job, model, selection, step, {"sha256": digest, "planned": order_digest(batches[:step])})
        write_json(job.folder / "measured.json", {
            "trained": sum(p.numel() for p in parameters), "steps": step,
            "tokens": sum(len(rows[i].encoded.ids) for b in batches[:step] for i in b),
            "memory_bytes": _memory(device) - before,
            "seconds": round(sum(h["seconds"] for h in read_history(job.folder / "history.jsonl")), 3),
        })


def _model(job: Job, start: Path | None, dtype: torch.dtype, device: str, world: int) -> Any:
    """Base and adapter, the latter as a checkpoint holds it where there is one."""
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
    return model


def _resume(job: Job, start: Path | None, optimizer: torch.optim.Optimizer) -> tuple[int, str, Selection]:
    """A checkpoint's steps, the digest of their order and what was chosen; the optimiser takes its state from it."""
    if start is None:
        return 0, "", Selection(job.task.student.early_stop)
    state = checkpoint.read_state(start)
    checkpoint.load_optimizer(start, optimizer)
    return state["step"], state["order"], Selection.resume(job.task.student.early_stop, state)


def _finish(job: Job, model: Any, selection: Selection, steps: int, order: dict[str, str]) -> None:
    """Write the adapter that was chosen, and what was done."""
    chosen, best = job.folder / "adapter", job.folder / "best"
    if job.task.student.keep_best and best.exists():
        shutil.copytree(best, chosen, dirs_exist_ok=True)
    else:
        model.save_pretrained(str(chosen), safe_serialization=True)
    kept = selection.step if job.task.student.keep_best and best.exists() else steps
    write_json(job.folder / "order.json", {"steps": steps, "adapter_of_step": kept, **order})


def _agree(selection: Selection) -> None:
    """All ranks take rank 0's word for it: it alone evaluates, and a rank that goes on alone waits for ever."""
    word = torch.tensor([float(selection.without)], dtype=torch.float64)
    dist.broadcast(word, 0)
    selection.without = int(word)


def _micro_batches(
    rows: Sequence[Supervised], batch: Sequence[int], rank: int, world: int, accumulation: int
) -> list[list[Supervised]]:
    """A rank's rows of a step in micro-batches, as many as every other rank has.

    One that has fewer takes a row that counts for nothing: ranks that do not run alike wait for each other for ever.
    """
    share = share_of_rank(batch, rank, world)
    size = micro_size(len(share), accumulation)
    out = [[rows[i] for i in share[at : at + size]] for at in range(0, len(share), size)]
    spare = rows[batch[0]]
    nothing = Supervised(spare.encoded, [0.0] * len(spare.weights))
    most = turns([len(share_of_rank(batch, r, world)) for r in range(world)], accumulation)
    return out + [[nothing]] * (most - len(out))


def _step(
    logits: TargetLogits, micro_batches: Sequence[Sequence[Supervised]], job: Job, parameters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer, world: int, device: str, dtype: torch.dtype, robust: float,
) -> tuple[float, int]:
    """One optimiser step: the weighted mean of the loss over all ranks, and the number of targets that count."""
    s = job.task.student
    alphabet = alphabet_of(job.codec, s)
    index = None if alphabet is None else {t: i for i, t in enumerate(alphabet)}
    totals = torch.tensor(
        [sum(sum(r.weights) for m in micro_batches for r in m),
         sum(w > 0 for m in micro_batches for r in m for w in r.weights)], dtype=torch.float64,
    )
    if world > 1:
        dist.all_reduce(totals)
    whole = max(float(totals[0]), 1e-9)  # a step in which everything is masked moves nothing
    summed = 0.0
    for rows in micro_batches:
        ids, row_of, columns, targets, weights = batch(rows, device)
        if index is not None:
            targets = torch.tensor([index[int(t)] for t in targets], device=device)
        mixed = torch.autocast(device.split(":")[0], dtype=dtype) if dtype != torch.float32 else nullcontext()
        with mixed:
            scores = logits(ids, row_of, columns)
        loss = weighted_loss(scores, targets, weights, s.label_smoothing, robust)
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
    from eval.matching import count
    from eval.metrics import micro
    from task.normalize import normaliser

    dev = job.dev[: job.task.student.eval_rows]
    found = predict(model, job.codec, tokenizer, job.task, dev, device=device)
    table = count(dev, found, [r.name for r in job.task.roles], "value", normaliser(job.task.normaliser))
    score = float(micro(table.sum(axis=0))[2])
    return score if score == score else 0.0


def _memory(device: str) -> int:
    """The most bytes that this process has held so far: of the device, on a CPU of its own memory."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def worker(config: dict[str, Any]) -> None:
    """The function that Ray Train runs on every worker."""
    import ray.train

    context = ray.train.get_context()
    job = Job.read(Path(config["job"]))
    s = job.task.student
    device = "cuda" if s.use_gpu else "cpu"
    train(job, context.get_world_rank(), context.get_world_size(), device, None if s.use_gpu else config["threads"])
    ray.train.report({"done": 1})

"""The order in which rows reach the optimiser: planned before training, recorded during training."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence

from task.settings import Student


def plan_batches(
    lengths: Sequence[int], *, batch_size: int, steps: int, reshuffle: bool, window: int, seed: int
) -> list[list[int]]:
    """Row numbers of every step's batch, all ranks together.

    The curriculum's order is kept; within a window of `window` batches rows are grouped by length, which saves padding,
    and the window's batches come in random order. `window=1` keeps the exact order. A run that ends within an epoch of
    an order that is not random takes evenly spaced rows of it: the first rows of `easy-to-hard` would be the easy ones
    only.

    Args:
        lengths: Length of every row in tokens, in curriculum order.
        reshuffle: Whether later epochs draw a new order (a shuffled curriculum) or repeat it.
    """
    rng = random.Random(seed)
    out: list[list[int]] = []
    epoch = 0
    while len(out) < steps:
        order = list(range(len(lengths)))
        if reshuffle and epoch:
            rng.shuffle(order)
        left = batch_size * (steps - len(out))
        if not reshuffle and left < len(order):
            order = [order[i * len(order) // left] for i in range(left)]
        span = batch_size * window
        for at in range(0, len(order), span):
            part = order[at : at + span]
            if window > 1:
                part.sort(key=lambda i: (lengths[i], i))
            batches = [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
            if window > 1:
                rng.shuffle(batches)
            out += batches
        epoch += 1
    return out[:steps]


def total_steps(rows: int, *, batch_size: int, epochs: float, max_steps: int | None) -> int:
    """Optimiser steps of a run."""
    steps = math.ceil(rows * epochs / batch_size)
    return max(1, min(steps, max_steps) if max_steps else steps)


def share_of_rank(batch: Sequence[int], *, rank: int, world: int) -> list[int]:
    """One rank's rows of a batch; ranks may get unequal numbers of rows, but take the same number of steps."""
    return list(batch[rank::world])


def how_to_train_longer(rows: int, s: Student) -> str:
    """What to change where a training ends within its warm-up: what limits its steps."""
    free = total_steps(rows, batch_size=s.batch_size, epochs=s.epochs, max_steps=None)
    if s.max_steps is not None and s.max_steps < free:
        return f"Raise student.max_steps, {s.max_steps} now ({free:,} steps without it), or lower warmup_steps"
    return "Lower batch_size or warmup_steps, or raise epochs"


def learning_rate(step: int, *, peak: float, warmup: int, steps: int, schedule: str) -> float:
    """Learning rate of a step (from 0): linear warm-up, then cosine or linear to zero, or constant."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (1 - progress) if schedule == "linear" else peak


def extend_digest(digest: str, batch: Sequence[int]) -> str:
    """Digest of an order with one more batch."""
    return hashlib.sha256(f"{digest}{list(batch)}".encode()).hexdigest()


def order_digest(batches: Sequence[Sequence[int]]) -> str:
    """Digest of a planned order; equal to the recorded one if the plan was followed."""
    digest = ""
    for batch in batches:
        digest = extend_digest(digest, batch)
    return digest

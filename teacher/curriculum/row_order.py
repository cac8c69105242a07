"""The orders of `curriculum.order`: shuffled, by difficulty, or drawn from a growing share of the easiest rows."""

from __future__ import annotations

import random
from collections.abc import Sequence

from task.training_row import TrainingRow

_FIRST_SHARE = 0.1


def ordered(rows: Sequence[TrainingRow], order: str, seed: int) -> list[TrainingRow]:
    """Rows in one of the orders of `curriculum.order`."""
    shuffled = sorted(rows, key=lambda r: r.example.query)
    random.Random(seed).shuffle(shuffled)
    if order == "easy-to-hard":
        return sorted(shuffled, key=lambda r: r.difficulty)
    if order == "hard-to-easy":
        return sorted(shuffled, key=lambda r: -r.difficulty)
    if order == "growing":
        return _growing(sorted(shuffled, key=lambda r: r.difficulty), seed)
    return shuffled


def _growing(rows: Sequence[TrainingRow], seed: int) -> list[TrainingRow]:
    """Drawn at random from a growing share of the easiest rows: c(t) = sqrt(t (1 − c0²) + c0²), c0 = 0.1.

    The square-root competence of Platanios et al. 2019; every row is drawn once.
    """
    rng = random.Random(seed)
    out: list[TrainingRow] = []
    pool: list[TrainingRow] = []
    unlocked = 0
    for step in range(len(rows)):
        competence = (step / len(rows) * (1 - _FIRST_SHARE**2) + _FIRST_SHARE**2) ** 0.5
        reach = max(step + 1, round(competence * len(rows)))
        pool += rows[unlocked:reach]
        unlocked = max(unlocked, reach)
        at = rng.randrange(len(pool))
        pool[at], pool[-1] = pool[-1], pool[at]
        out.append(pool.pop())
    return out

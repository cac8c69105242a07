"""Splits without leakage: near-duplicate queries, which form a cluster, go to the same split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from task.training_row import TrainingRow


def split(
    rows: Sequence[TrainingRow], *, fraction: float, most: int, seed: int
) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """Development and training rows: `fraction` of all rows, at most `most` of them, in whole clusters.

    Clusters are drawn by a hash of their name, so new rows rarely move old ones.
    """
    members: defaultdict[str, list[TrainingRow]] = defaultdict(list)
    for row in rows:
        members[row.cluster].append(row)
    dev: list[TrainingRow] = []
    train: list[TrainingRow] = []
    wanted = min(most, round(fraction * len(rows)))
    for name in sorted(members, key=lambda n: draw(n, seed)):
        (dev if len(dev) < wanted else train).extend(members[name])
    return dev, train


def draw(text: str, seed: int) -> str:
    """A sort key that is random in the text and the same in every run."""
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()

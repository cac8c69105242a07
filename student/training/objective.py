"""What a step is scored on: the targets of its rows, each with a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from student.model import collate
from task.codec import Codec, Encoded, Tokenizer
from task.labels import Label, over
from task.segmentation import units
from task.training_row import TrainingRow


@dataclass(frozen=True, slots=True)
class Supervised:
    """A row to learn from: its ids and targets, and a weight for each target, shape (targets,)."""

    encoded: Encoded
    weights: list[float]


def supervise(codec: Codec, tokenizer: Tokenizer, row: TrainingRow, *, by_confidence: bool = False) -> Supervised:
    """Encode a row and weigh its targets.

    What the row doubts does not count at all; the rest counts by the confidence of its label, where there is no label
    by that of the row, or all the same. A text (the form `json`) is one thing: its tokens count as its least part does.
    """
    example = row.example
    encoded = codec.encode(example, tokenizer)

    def sure(label: Label | None) -> float:
        if not by_confidence:
            return 1.0
        return row.confidence if label is None or label.confidence is None else label.confidence

    if codec.form == "json":
        least = 0.0 if row.doubts else min([sure(x) for x in example.labels] or [sure(None)])
        return Supervised(encoded, [least] * len(encoded.targets))
    weights = []
    for start, end in units(example.query, codec.segmentation):
        doubted = any(over(d, start, end) for d in row.doubts)
        label = next((x for x in example.labels if over(x, start, end)), None)
        weights.append(0.0 if doubted else sure(label))
    doubted_roles = {d.role for d in row.doubts if d.start is None}
    for role in codec.closed:
        held = {x.text: x for x in example.labels if x.role == role.name}
        values = [held.get(v) for v in role.values] if role.multiple else [next(iter(held.values()), None)]
        weights += [0.0 if role.name in doubted_roles else sure(x) for x in values]
    return Supervised(encoded, weights)


def batch(rows: Sequence[Supervised], device: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What `collate` gives, and the weights, shape (targets,)."""
    weights = torch.tensor([w for r in rows for w in r.weights])
    return *collate([r.encoded for r in rows], device), weights.to(device)


def weighted_loss(
    scores: Tensor, targets: Tensor, weights: Tensor, smoothing: float = 0.0, robust: float = 0.0
) -> Tensor:
    """Cross-entropy summed over targets, each times its weight.

    Args:
        scores: (targets, alphabet), fp32.
        targets: (targets,) indices into the alphabet.
        weights: (targets,).
        smoothing: Share of the target distribution that is spread evenly (Szegedy et al. 2016).
        robust: q of the generalised cross-entropy (1 − p^q) / q (Zhang and Sabuncu 2018): a target pulls as p^q of what
            it would, p being what the student gives it already, so that one which everything else contradicts pulls
            little. 0 is cross-entropy, 1 the mean absolute error.
    """
    losses = torch.nn.functional.cross_entropy(scores, targets, reduction="none", label_smoothing=smoothing)
    if robust:
        losses = -torch.expm1(-robust * losses) / robust
    return (losses * weights).sum()


def robustness(step: int, *, wanted: float, steps: int) -> float:
    """What `weighted_loss` calls q, at a step: a student that knows nothing yet contradicts everything."""
    return wanted * min(1.0, 2 * step / steps)

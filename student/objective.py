"""What a step is scored on: the targets of its rows, each with a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from student.model import collate
from task.codec import Codec, Encoded, Tokenizer
from task.labels import Example, Label
from task.segment import units


@dataclass(frozen=True, slots=True)
class Supervised:
    """A row to learn from: its ids and targets, and a weight for each target, shape (targets,)."""

    encoded: Encoded
    weights: list[float]


@dataclass(frozen=True, slots=True)
class Weighting:
    """How much a target counts.

    Attributes:
        by_confidence: By the confidence of its label; where there is no label, by that of the row. Else 1.
        mask_below: The words of an open role, or the probes of a closed one, whose label is less sure than this do not
            count at all: in a row with one doubtful label the others are still learned from.
    """

    by_confidence: bool = False
    mask_below: float = 0.0

    def of(self, label: Label | None, row: float) -> float:
        """Weight of a target that belongs to a label, or to none in a row of some confidence."""
        sure = row if label is None or label.confidence is None else label.confidence
        if label is not None and sure < self.mask_below:
            return 0.0
        return sure if self.by_confidence else 1.0


def supervise(codec: Codec, tokenizer: Tokenizer, example: Example, row: float, weighting: Weighting) -> Supervised:
    """Encode a row and weigh its targets.

    A text (the form `json`) is one thing: all its tokens have the weight of the least sure label.

    Args:
        row: Confidence in the labelling as a whole.
    """
    encoded = codec.encode(example, tokenizer)
    if codec.form == "json":
        least = min([weighting.of(x, row) for x in example.labels] or [weighting.of(None, row)])
        return Supervised(encoded, [least] * len(encoded.targets))
    weights = []
    for start, end in units(example.query, codec.segmentation):
        over = (x for x in example.labels if x.start is not None and x.start < end and start < (x.end or 0))
        weights.append(weighting.of(next(over, None), row))
    for role in codec.closed:
        held = {x.text: x for x in example.labels if x.role == role.name}
        if role.multiple:
            weights += [weighting.of(held.get(v), row) for v in role.values]
        else:
            weights.append(weighting.of(next(iter(held.values()), None), row))
    return Supervised(encoded, weights)


def batch(rows: Sequence[Supervised], device: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What `collate` gives, and the weights, shape (targets,)."""
    weights = torch.tensor([w for r in rows for w in r.weights])
    return *collate([r.encoded for r in rows], device), weights.to(device)


def weighted_loss(scores: Tensor, targets: Tensor, weights: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy summed over targets, each times its weight.

    Args:
        scores: (targets, alphabet), fp32.
        targets: (targets,) indices into the alphabet.
        weights: (targets,).
        smoothing: Share of the target distribution that is spread evenly (Szegedy et al. 2016).
    """
    losses = torch.nn.functional.cross_entropy(scores, targets, reduction="none", label_smoothing=smoothing)
    return (losses * weights).sum()

"""The training objective: cross-entropy over the targets of a step's rows, each with a weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from student.model import collate
from task.codec import Codec, Encoded, Tokenizer
from task.labels import Label, over
from task.training_row import TrainingRow
from task.written_texts import lines


@dataclass(frozen=True, slots=True)
class Supervised:
    """An encoded training row with a weight for each target, shape (targets,)."""

    encoded: Encoded
    weights: list[float]


def supervise(codec: Codec, tokenizer: Tokenizer, row: TrainingRow, *, by_confidence: bool = False) -> Supervised:
    """Encode a row and weight its targets.

    Parts that `row.doubts` names have weight 0. With `by_confidence` the other targets have the confidence of their
    label, or of the row where there is no label; otherwise 1. Generated text (the form `json`) has one weight for all
    its tokens, the minimum over its labels.

    Raises:
        ValueError: The codec cannot represent the row's labels.
    """
    example = row.example
    encoded = codec.encode(example, tokenizer)

    def confidence(label: Label | None) -> float:
        if not by_confidence:
            return 1.0
        return row.confidence if label is None or label.confidence is None else label.confidence

    if codec.answer_form.output == "text":
        least = 0.0 if row.doubts else min([confidence(x) for x in example.labels] or [confidence(None)])
        return Supervised(encoded, [least] * len(encoded.targets))
    weights = []
    for start, end in codec.tagged_units(example.query):
        masked = any(over(d, start, end) for d in row.doubts)
        label = next((x for x in example.labels if over(x, start, end)), None)
        weights.append(0.0 if masked else confidence(label))
    masked_roles = {d.role for d in row.doubts if d.start is None}
    for role in codec.closed:
        held = {x.text: x for x in example.labels if x.role == role.name}
        values = [held.get(v) for v in role.values] if role.multiple else [next(iter(held.values()), None)]
        weights += [0.0 if role.name in masked_roles else confidence(x) for x in values]
    for tree in codec.trees:
        weight = 0.0 if tree.name in masked_roles else confidence(example.label(tree.name))
        weights += [weight] * len(tree.probes)
    if codec.texts:
        for line, ids in lines(example, codec.texts, codec.separator, tokenizer.encode):
            weights += [0.0 if line.role in masked_roles else confidence(line)] * len(ids)
        weights.append(confidence(None))  # the stop token
    return Supervised(encoded, weights)


def batch(rows: Sequence[Supervised], device: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The tensors of `collate`, and the weights, shape (targets,)."""
    weights = torch.tensor([w for r in rows for w in r.weights])
    return *collate([r.encoded for r in rows], device), weights.to(device)


def weighted_loss(
    scores: Tensor, targets: Tensor, weights: Tensor, *, smoothing: float = 0.0, robust: float = 0.0
) -> Tensor:
    """Cross-entropy summed over targets, each times its weight.

    Args:
        scores: (targets, alphabet), fp32.
        targets: (targets,) indices into the alphabet.
        weights: (targets,).
        smoothing: Share of the target distribution that is spread evenly (Szegedy et al. 2016).
        robust: q of the generalised cross-entropy (1 − p^q) / q (Zhang and Sabuncu 2018), p being the probability of
            the target: its gradient is p^q times that of cross-entropy, so that targets which the model finds unlikely,
            as wrong labels often are, have less influence. 0 is cross-entropy, 1 the mean absolute error.
    """
    losses = torch.nn.functional.cross_entropy(scores, targets, reduction="none", label_smoothing=smoothing)
    if robust:
        losses = -torch.expm1(-robust * losses) / robust
    return (losses * weights).sum()


def gce_q(step: int, *, wanted: float, steps: int) -> float:
    """The q of the generalised cross-entropy at a step: it rises from 0 to `wanted` in the first half of the steps.

    An untrained student gives every target a low probability, and with the full q would learn from none.
    """
    return wanted * min(1.0, 2 * step / steps)

"""SemEval-2013's lenient schemes (Segura-Bedmar et al. 2013, task 9.1), independent of the order of labels.

Gold and predicted labels that overlap in at least one character may be paired, each at most once; a pair is

- `exact`: right where the spans are the same, whatever the roles; else wrong;
- `partial`: right where the spans are the same, else half right, whatever the roles;
- `type`: right where the roles are the same; else wrong.

Labels without a pair are false negatives or false positives. The assignment maximises the number of right pairs, then
the number of pairs; a greedy assignment, as in public tools, gives figures that depend on the order of the predictions.
Closed labels, which have no span, are compared by role and value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from task.labels import Label, over

Lenient = Literal["exact", "partial", "type"]
TP, FP, FN = range(3)


def compare(
    gold: Sequence[Label], predicted: Sequence[Label], schemes: Sequence[Lenient], normalise: Callable[[str], str]
) -> Iterator[tuple[Lenient, str, int, int]]:
    """(scheme, role, TP, FP or FN, how many) of one query; `partial` in halves of a label.

    True positives and false negatives of a pair count for gold's role, false positives for the predicted role; sums
    over roles are those of the query.
    """
    spans, guesses = [x for x in gold if x.start is not None], [x for x in predicted if x.start is not None]
    closed: list[tuple[str, int, int]] = []
    if len(spans) < len(gold) or len(guesses) < len(predicted):
        want = Counter((x.role, normalise(x.text)) for x in gold if x.start is None)
        have = Counter((x.role, normalise(x.text)) for x in predicted if x.start is None)
        for kind, part in enumerate((want & have, have - want, want - have)):
            closed += [(role, kind, n) for (role, _), n in part.items()]
    touching = _touching(spans, guesses)
    for scheme in schemes:
        unit = 2 if scheme == "partial" else 1
        for role, kind, n in closed:
            yield scheme, role, kind, unit * n
        pairs = _paired(spans, guesses, touching, scheme)
        for i, j in pairs.items():
            g, p = spans[i], guesses[j]
            if _right(g, p, scheme):
                yield scheme, g.role, TP, unit
                continue
            if scheme == "partial":
                yield scheme, g.role, TP, 1
            yield scheme, g.role, FN, 1
            yield scheme, p.role, FP, 1
        taken = set(pairs.values())
        for i, g in enumerate(spans):
            if i not in pairs:
                yield scheme, g.role, FN, unit
        for j, p in enumerate(guesses):
            if j not in taken:
                yield scheme, p.role, FP, unit


def pair(gold: Sequence[Label], predicted: Sequence[Label], scheme: Lenient) -> dict[int, int]:
    """Index of the predicted label that each gold label is paired with: most right pairs, then most pairs."""
    return _paired(gold, predicted, _touching(gold, predicted), scheme)


def _touching(gold: Sequence[Label], predicted: Sequence[Label]) -> list[tuple[int, int]]:
    """Index pairs of overlapping labels."""
    return [
        (i, j) for i, g in enumerate(gold) for j, p in enumerate(predicted)
        if p.start is not None and p.end is not None and over(g, p.start, p.end)
    ]


def _paired(
    gold: Sequence[Label], predicted: Sequence[Label], touching: Sequence[tuple[int, int]], scheme: Lenient
) -> dict[int, int]:
    alone = dict(touching)
    if len(alone) == len(touching) == len(set(alone.values())):
        return alone  # nothing to choose
    from scipy.optimize import linear_sum_assignment

    weights = np.zeros((len(gold), len(predicted)))
    for i, j in touching:
        weights[i, j] = 1 + (len(gold) + 1) * _right(gold[i], predicted[j], scheme)
    return {int(i): int(j) for i, j in zip(*linear_sum_assignment(weights, maximize=True), strict=True)
            if weights[i, j]}


def _right(gold: Label, predicted: Label, scheme: Lenient) -> bool:
    if scheme == "type":
        return gold.role == predicted.role
    return (gold.start, gold.end) == (predicted.start, predicted.end)

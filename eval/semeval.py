"""SemEval-2013's lenient schemes (Segura-Bedmar et al. 2013, task 9.1), without regard to the order of labels.

A label of gold and a predicted one that have a character in common may be paired, each once; a pair is

- `exact`: right where the spans are the same, whatever the roles; else wrong;
- `partial`: right where the spans are the same, else half right, whatever the roles;
- `type`: right where the roles are the same; else wrong.

What is paired with nothing is missed or invented. Of all pairings the one with the most right pairs is taken, then the
one with the most pairs: a greedy walk, as public tools do it, gives figures that change with the order of predictions.
Closed labels, which have no span, are right by role and value or not at all.
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
    gold: Sequence[Label], predicted: Sequence[Label], scheme: Lenient, normalise: Callable[[str], str]
) -> Iterator[tuple[str, int, int]]:
    """(role, TP, FP or FN, how many) of one query; `partial` in halves of a label.

    What a pair earns and misses is booked on gold's role, what it has too much on the predicted one: sums over roles
    are those of the query.
    """
    unit = 2 if scheme == "partial" else 1
    want = Counter((x.role, normalise(x.text)) for x in gold if x.start is None)
    have = Counter((x.role, normalise(x.text)) for x in predicted if x.start is None)
    for kind, part in enumerate((want & have, have - want, want - have)):
        for (role, _), n in part.items():
            yield role, kind, unit * n
    spans, guesses = [x for x in gold if x.start is not None], [x for x in predicted if x.start is not None]
    pairs = pair(spans, guesses, scheme)
    for i, j in pairs.items():
        g, p = spans[i], guesses[j]
        if _right(g, p, scheme):
            yield g.role, TP, unit
        elif scheme == "partial":
            yield g.role, TP, 1
            yield g.role, FN, 1
            yield p.role, FP, 1
        else:
            yield g.role, FN, 1
            yield p.role, FP, 1
    for i, g in enumerate(spans):
        if i not in pairs:
            yield g.role, FN, unit
    taken = set(pairs.values())
    for j, p in enumerate(guesses):
        if j not in taken:
            yield p.role, FP, unit


def pair(gold: Sequence[Label], predicted: Sequence[Label], scheme: Lenient) -> dict[int, int]:
    """Which predicted label each label of gold is paired with: most right pairs, then most pairs."""
    worth = {
        (i, j): 1 + (len(gold) + 1) * _right(g, p, scheme)
        for i, g in enumerate(gold) for j, p in enumerate(predicted)
        if p.start is not None and p.end is not None and over(g, p.start, p.end)
    }
    left, right = Counter(i for i, _ in worth), Counter(j for _, j in worth)
    if all(n == 1 for n in (*left.values(), *right.values())):
        return dict(worth.keys())  # nothing to choose
    from scipy.optimize import linear_sum_assignment

    weights = np.zeros((len(gold), len(predicted)))
    for (i, j), value in worth.items():
        weights[i, j] = value
    return {int(i): int(j) for i, j in zip(*linear_sum_assignment(weights, maximize=True), strict=True)
            if (i, j) in worth}


def _right(gold: Label, predicted: Label, scheme: Lenient) -> bool:
    if scheme == "type":
        return gold.role == predicted.role
    return (gold.start, gold.end) == (predicted.start, predicted.end)

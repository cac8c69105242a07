"""What counts as right: multisets of labels, compared without regard to order.

Two schemes. `value`: a label is right when gold has the role with the same normalised value. `span`: role and
character span must agree (strict, as in CoNLL); closed roles, which have no span, compare by value in both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from task.labels import Example, Label

Scheme = Literal["value", "span"]
Counts = npt.NDArray[np.int64]


def key_of(label: Label, scheme: Scheme, normalise: Callable[[str], str]) -> tuple[str, Hashable]:
    """What two labels must share to be the same."""
    if scheme == "span" and label.start is not None:
        return label.role, (label.start, label.end)
    return label.role, normalise(label.text)


def exact(a: Sequence[Label], b: Sequence[Label], normalise: Callable[[str], str]) -> bool:
    """Whether two labellings have the same roles with the same normalised values, each as often."""
    return Counter(key_of(x, "value", normalise) for x in a) == Counter(key_of(x, "value", normalise) for x in b)


def count(
    gold: Sequence[Example],
    predicted: Sequence[Example],
    roles: Sequence[str],
    scheme: Scheme,
    normalise: Callable[[str], str],
) -> Counts:
    """True positives, false positives and false negatives per query and role.

    A label of a role outside `roles` cannot occur in gold; in a prediction it is a mistake of the reader, refused.

    Returns:
        Shape (queries, roles, 3), last axis TP, FP, FN.

    Raises:
        ValueError: The two sides are not about the same queries in the same order.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold rows and {len(predicted)} predictions")
    index = {role: i for i, role in enumerate(roles)}
    out = np.zeros((len(gold), len(roles), 3), dtype=np.int64)
    for row, (g, p) in enumerate(zip(gold, predicted, strict=True)):
        if g.query != p.query:
            raise ValueError(f"row {row + 1}: gold is {g.query!r}, the prediction is for {p.query!r}")
        want = Counter(key_of(x, scheme, normalise) for x in g.labels)
        have = Counter(key_of(x, scheme, normalise) for x in p.labels)
        for kind, part in enumerate((want & have, have - want, want - have)):
            for (role, _), n in part.items():
                out[row, index[role], kind] += n
    return out

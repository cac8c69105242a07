"""Matching schemes: labels are compared as multisets, without regard to order.

`value`: gold has the role with the same normalised value; `raw`: with the same characters. `span`: role and character
span agree (strict, as in CoNLL). `exact`, `partial` and `type` are SemEval-2013's lenient schemes (`eval.semeval`).
Closed roles, which have no span, compare by value in all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from eval import semeval
from task.labels import Example, Label
from task.normalize import remembering

Scheme = Literal["value", "raw", "span", "exact", "partial", "type"]
SCHEMES: Final[tuple[Scheme, ...]] = ("value", "raw", "span", "exact", "partial", "type")
LENIENT: Final[tuple[semeval.Lenient, ...]] = ("exact", "partial", "type")
Counts = npt.NDArray[np.int64]


def key_of(label: Label, scheme: Scheme, normalise: Callable[[str], str]) -> tuple[str, Hashable]:
    """The key that equal labels share under a scheme."""
    if scheme == "span" and label.start is not None:
        return label.role, (label.start, label.end)
    return label.role, label.text if scheme == "raw" else normalise(label.text)


def exact(a: Sequence[Label], b: Sequence[Label], normalise: Callable[[str], str]) -> bool:
    """Whether two labellings have the same roles with the same normalised values, with equal multiplicity."""
    return Counter(key_of(x, "value", normalise) for x in a) == Counter(key_of(x, "value", normalise) for x in b)


def count(
    gold: Sequence[Example], predicted: Sequence[Example], roles: Sequence[str], scheme: Scheme,
    normalise: Callable[[str], str],
) -> Counts:
    """`tables` for one scheme."""
    return tables(gold, predicted, roles, normalise, (scheme,))[scheme]


def tables(
    gold: Sequence[Example], predicted: Sequence[Example], roles: Sequence[str], normalise: Callable[[str], str],
    schemes: Sequence[Scheme] = SCHEMES,
) -> dict[Scheme, Counts]:
    """True positives, false positives and false negatives per query and role, for each scheme.

    A label of a role outside `roles` raises KeyError: readers have checked the roles.

    Returns:
        Shape (queries, roles, 3), last axis TP, FP, FN. `partial` counts in halves of a label, because an
        overlap counts half; precision, recall and F1 are not affected.

    Raises:
        ValueError: The two sides are not about the same queries in the same order.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold rows and {len(predicted)} predictions")
    index = {role: i for i, role in enumerate(roles)}
    out: dict[Scheme, Counts] = {s: np.zeros((len(gold), len(roles), 3), dtype=np.int64) for s in schemes}
    normal = remembering(normalise)
    whole: tuple[list[int], list[int]] = ([], [])  # (rows, roles) of labels in rows where both sides are equal
    for row, (g, p) in enumerate(zip(gold, predicted, strict=True)):
        if g.query != p.query:
            raise ValueError(f"row {row + 1}: gold is {g.query!r}, the prediction is for {p.query!r}")
        if _same(g.labels, p.labels):
            whole[0].extend([row] * len(g.labels))
            whole[1].extend(index[x.role] for x in g.labels)
            continue
        for scheme, role, kind, n in _compared(g.labels, p.labels, schemes, normal):
            out[scheme][row, index[role], kind] += n
    for scheme, table in out.items():
        np.add.at(table[:, :, 0], whole, 2 if scheme == "partial" else 1)
    return out


def _same(a: Sequence[Label], b: Sequence[Label]) -> bool:
    """Whether two labellings are equal label by label, in this order: the usual case, right in every scheme."""
    if len(a) != len(b):
        return False
    for x, y in zip(a, b, strict=True):
        if x.start != y.start or x.end != y.end or x.role != y.role or x.text != y.text:
            return False
    return True


def _compared(
    gold: Sequence[Label], predicted: Sequence[Label], schemes: Sequence[Scheme], normalise: Callable[[str], str]
) -> Iterator[tuple[Scheme, str, int, int]]:
    """(scheme, role, kind of count, how many) of one query; a kind is a place on the last axis."""
    for scheme in schemes:
        if scheme not in LENIENT:
            want = Counter(key_of(x, scheme, normalise) for x in gold)
            have = Counter(key_of(x, scheme, normalise) for x in predicted)
            for kind, part in enumerate((want & have, have - want, want - have)):
                for (role, _), n in part.items():
                    yield scheme, role, kind, n
    lenient = [s for s in LENIENT if s in schemes]
    if lenient:
        yield from semeval.compare(gold, predicted, lenient, normalise)

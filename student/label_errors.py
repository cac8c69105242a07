"""Label errors of the teacher, found by cross-fitting: predictions of students that were not trained on the row.

Confident learning (Northcutt et al. 2021) on the units of a query: a student trained on the other folds gives each unit
the probability of every state. A state's threshold is the mean probability of that state over the units that the
teacher gave it. A unit is suspect if its likeliest state is not the teacher's and has a probability above its own
threshold; likewise the value of a closed role. (The original takes the likeliest of the states above their thresholds,
which makes a correct label suspect as soon as it is slightly below its own threshold.) Near-duplicates share a fold,
because a student could otherwise have memorised the label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from task.codec import Codec
from task.labels import Doubt, Example, over
from task.segmentation import units
from task.viterbi import log_softmax

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A part of a labelling that out-of-fold predictions contradict.

    Attributes:
        row: Index of the example.
        given: Predicted probability of the teacher's label.
        instead: Probability of the predicted class.
        says: The predicted class: a role, a value, or `nothing`.
    """

    row: int
    doubt: Doubt
    given: float
    instead: float
    says: str


@dataclass(frozen=True, slots=True)
class _Decision:
    """One decision of a labelling: the state of a unit, or the answer at a probe."""

    row: int
    doubt: Doubt
    group: str  # decisions among the same classes share thresholds
    given: int
    probabilities: Floats
    names: tuple[str, ...]


def fold_of(clusters: Sequence[str], folds: int) -> list[int]:
    """A fold for every row: a cluster is in one fold, and folds are of nearly equal size."""
    sizes = Counter(clusters)
    filled = [0] * folds
    where = {}
    for name in sorted(sizes, key=lambda c: (-sizes[c], c)):
        where[name] = filled.index(min(filled))
        filled[where[name]] += sizes[name]
    return [where[c] for c in clusters]


def suspects(
    codec: Codec, examples: Sequence[Example], scores: Sequence[npt.NDArray[np.float32]]
) -> list[Suspect]:
    """The parts of labellings that out-of-fold predictions contradict, largest difference of probability first.

    Args:
        codec: Of the form `read`.
        scores: For each example the logits at its read positions, shape (units + probes, symbols), from a student that
            was not trained on it.
    """
    decisions = [c for i, (x, s) in enumerate(zip(examples, scores, strict=True)) for c in _decisions(codec, i, x, s)]
    thresholds = _thresholds(decisions)
    found: dict[tuple[int, Doubt], Suspect] = {}
    for c in decisions:
        state = int(c.probabilities.argmax())
        best = float(c.probabilities[state])
        if state == c.given or best < thresholds.get((c.group, state), np.inf):
            continue
        suspect = Suspect(c.row, c.doubt, float(c.probabilities[c.given]), best, c.names[state])
        known = found.get((c.row, c.doubt))
        if known is None or suspect.given - suspect.instead < known.given - known.instead:
            found[c.row, c.doubt] = suspect
    return sorted(found.values(), key=lambda s: (s.given - s.instead, s.row))


def _decisions(codec: Codec, row: int, example: Example, scores: npt.ArrayLike) -> list[_Decision]:
    spans = units(example.query, codec.segmentation)
    table = np.asarray(scores, dtype=np.float64)
    answer = codec.answer(example)
    width = 1 + 2 * len(codec.roles)
    names = ("nothing", *(n for r in codec.roles for n in (r, r)))
    out = []
    for at, (start, end) in enumerate(spans):
        label = next((x for x in example.labels if over(x, start, end)), None)
        doubt = Doubt("", start, end) if label is None else Doubt.of(label)
        out.append(_Decision(row, doubt, "words", answer[at], np.exp(log_softmax(table[at, :width])), names))
    at = len(spans)
    for role in codec.closed:
        symbols = list(role.symbols)
        for probe in range(len(role.probes)):
            probabilities = np.exp(log_softmax(table[at, symbols]))
            values = ("nothing", role.values[probe]) if role.multiple else ("nothing", *role.values)
            group = f"{role.name}:{probe if role.multiple else ''}"
            out.append(_Decision(row, Doubt(role.name), group, symbols.index(answer[at]), probabilities, values))
            at += 1
    for tree in codec.trees:
        for level, step in enumerate(tree.steps(example.value(tree.name))):
            siblings = table[at + level, [tree.symbols[code] for code in step.codes]]
            out.append(_Decision(
                row, Doubt(tree.name), f"{tree.name}:{step.parent}", step.chosen,
                np.exp(log_softmax(siblings)), step.names,
            ))
        at += len(tree.probes)
    return out


def _thresholds(decisions: Sequence[_Decision]) -> dict[tuple[str, int], float]:
    """Mean probability of a state over the decisions with that label; a state that is never given has no threshold."""
    total: dict[tuple[str, int], float] = {}
    count: dict[tuple[str, int], int] = {}
    for c in decisions:
        key = (c.group, c.given)
        total[key] = total.get(key, 0.0) + float(c.probabilities[c.given])
        count[key] = count.get(key, 0) + 1
    return {key: total[key] / count[key] for key in total}

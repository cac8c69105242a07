"""Structured decoding of begin/continue symbols.

States: 0 is outside, `1 + 2r` begins role r, `2 + 2r` continues it. The only constraint is that a continuation
follows a begin or a continuation of its own role, so a step costs O(states), not O(states²).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_LEAST = 1e-300


def log_softmax(scores: npt.ArrayLike) -> Floats:
    """Row-wise log-softmax in double precision, shape kept."""
    x = np.asarray(scores, dtype=np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)), dtype=np.float64)


def best_path(scores: Floats) -> list[int]:
    """The most probable consistent state sequence (Viterbi 1967).

    Args:
        scores: Log-probabilities, shape (units, 1 + 2 · roles).
    """
    length, states = scores.shape
    if length == 0:
        return []
    begins, inside = np.arange(1, states, 2), np.arange(2, states, 2)
    best = scores[0].copy()
    best[inside] = -np.inf
    back = np.zeros((length, states), dtype=np.int64)
    for t in range(1, length):
        top = int(best.argmax())
        back[t] = top
        previous = np.full(states, best[top])
        stay = best[inside] >= best[begins]
        back[t, inside] = np.where(stay, inside, begins)
        previous[inside] = np.where(stay, best[inside], best[begins])
        best = previous + scores[t]
    path = [int(best.argmax())]
    for t in range(length - 1, 0, -1):
        path.append(int(back[t, path[-1]]))
    return path[::-1]


def spans_of(path: list[int]) -> list[tuple[int, int, int]]:
    """`(role, first unit, one past the last)` of any state sequence; a stray continuation begins a span."""
    out: list[tuple[int, int, int]] = []
    previous = 0
    for t, state in enumerate(path):
        if state:
            role = (state - 1) // 2
            if state % 2 == 0 and previous and (previous - 1) // 2 == role:
                out[-1] = (role, out[-1][1], t + 1)
            else:
                out.append((role, t, t + 1))
        previous = state
    return out


def path_probability(scores: Floats, path: Sequence[int]) -> float:
    """How probable a consistent state sequence is among all consistent ones (the forward algorithm, Rabiner 1989).

    Args:
        scores: Log-probabilities, shape (units, 1 + 2 · roles).
        path: A state for each unit, such as `best_path` gives.
    """
    before = [0.0] * scores.shape[1]  # scaled to sum to one
    probability = 1.0
    for row, state in zip(np.exp(scores).tolist(), path, strict=True):
        now = list(row)
        for go_on in range(2, len(row), 2):
            now[go_on] *= before[go_on - 1] + before[go_on]
        scale = max(sum(now), _LEAST)
        before = [x / scale for x in now]
        probability *= row[state] / scale
    return min(1.0, probability)


def span_probabilities(scores: Floats, spans: Sequence[tuple[int, int, int]]) -> list[float]:
    """How probable each span is, over all consistent state sequences (forward-backward, Rabiner 1989).

    A span's probability is the share of the sequences' total weight that has exactly this span of this role: it begins
    there, goes on to its last unit and no further. So what a single unit leaves open, its neighbours can settle.

    Args:
        scores: Log-probabilities, shape (units, 1 + 2 · roles).
        spans: `(role, first unit, one past the last)`.
    """
    if not spans:
        return []
    # Plain floats, scaled row by row: for the few units of a query this is several times as fast as array operations.
    table: list[list[float]] = np.exp(scores).tolist()
    roles = range(1, len(table[0]), 2)  # the state that begins each; the next one continues it
    forward: list[list[float]] = []
    scale: list[float] = []
    before = [0.0] * len(table[0])  # scaled to sum to one, which is what a state that may follow any other builds on
    for row in table:
        now = list(row)
        for begin in roles:
            now[begin + 1] = (before[begin] + before[begin + 1]) * row[begin + 1]
        scale.append(max(sum(now), _LEAST))
        before = [x / scale[-1] for x in now]
        forward.append(before)
    # `rest[t]` is the weight of all that can stand from unit t on where nothing goes on into it.
    rest = [1.0] * (len(table) + 1)
    going_on = [0.0] * len(table[0])  # by the state that begins: the weight of going on with it from the next unit
    for t in range(len(table) - 1, -1, -1):
        row, after = table[t], rest[t + 1]
        fresh = row[0] * after + sum(row[begin] * (after + going_on[begin]) for begin in roles)
        for begin in roles:
            going_on[begin] = row[begin + 1] * (after + going_on[begin]) / scale[t]
        rest[t] = fresh / scale[t]
    out = []
    for role, first, end in spans:
        probability = forward[first][1 + 2 * role] * rest[end]
        for t in range(first + 1, end):
            probability *= table[t][2 + 2 * role] / scale[t]
        out.append(min(1.0, probability))
    return out

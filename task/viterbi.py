"""Structured decoding of begin/continue symbols.

States: 0 is outside, `1 + 2r` begins role r, `2 + 2r` continues it. The only constraint is that a continuation
follows a begin or a continuation of its own role, so a step takes O(states) time instead of O(states²).
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
    """`(role, first unit, one past the last)` of any state sequence; a continuation without a begin begins a span."""
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


def probabilities(
    scores: Floats, path: Sequence[int], spans: Sequence[tuple[int, int, int]]
) -> tuple[float, list[float]]:
    """The probability of a path and of spans among all consistent paths (forward-backward, Rabiner 1989).

    A span's probability is the share of the total weight of the paths that have exactly this span of this role: it
    begins at the first unit, continues to the last and no further. So neighbouring units contribute to it.

    Args:
        scores: Log-probabilities, shape (units, 1 + 2 · roles).
        path: A consistent state for each unit, such as `best_path` gives.
        spans: `(role, first unit, one past the last)`.

    Returns:
        The path's probability; each span's.
    """
    # Plain floats, scaled row by row: for the few units of a query this is several times as fast as array operations.
    table: list[list[float]] = np.exp(scores).tolist()
    begins = range(1, scores.shape[1], 2)  # the state that begins each role; the next one continues it
    forward: list[list[float]] = []
    scale: list[float] = []
    before = [0.0] * scores.shape[1]  # scaled to sum to one: the factor of states that may follow any other
    raw_probability = 1.0
    for row, state in zip(table, path, strict=True):
        now = list(row)
        for begin in begins:
            now[begin + 1] *= before[begin] + before[begin + 1]
        scale.append(max(sum(now), _LEAST))
        before = [x / scale[-1] for x in now]
        forward.append(before)
        raw_probability *= row[state] / scale[-1]
    rest = _rest(table, scale, begins) if spans else []
    out = []
    for role, first, end in spans:
        probability = forward[first][1 + 2 * role] * rest[end]
        for t in range(first + 1, end):
            probability *= table[t][2 + 2 * role] / scale[t]
        out.append(min(1.0, probability))
    return min(1.0, raw_probability), out


def _rest(table: list[list[float]], scale: list[float], begins: range) -> list[float]:
    """For each unit, the total weight of the path suffixes from there on that do not begin with a continuation."""
    rest = [1.0] * (len(table) + 1)
    going_on = [0.0] * len(table[0])  # by begin state: the weight of suffixes that continue its span at the next unit
    for t in range(len(table) - 1, -1, -1):
        row, after = table[t], rest[t + 1]
        fresh = row[0] * after + sum(row[begin] * (after + going_on[begin]) for begin in begins)
        for begin in begins:
            going_on[begin] = row[begin + 1] * (after + going_on[begin]) / scale[t]
        rest[t] = fresh / scale[t]
    return rest

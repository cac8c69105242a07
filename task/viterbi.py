"""Structured decoding of begin/continue symbols.

States: 0 is outside, `1 + 2r` begins role r, `2 + 2r` continues it. The only constraint is that a continuation
follows a begin or a continuation of its own role, so a step costs O(states), not O(states²).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


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


def span_probability(scores: Floats, role: int, first: int, end: int) -> float:
    """Probability of exactly this span: begin, continuations, and no continuation after it (units independent)."""
    total = scores[first, 1 + 2 * role] + scores[first + 1 : end, 2 + 2 * role].sum()
    if end < len(scores):
        total += np.log1p(-min(float(np.exp(scores[end, 2 + 2 * role])), 1.0 - 1e-12))
    return float(np.exp(total))

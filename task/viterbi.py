"""Structured decoding of begin/continue symbols.

States: 0 is outside, `1 + 2r` begins role r, `2 + 2r` continues it. The only constraint is that a continuation
follows a begin or a continuation of its own role, so a step costs O(states), not O(states²).
"""

from __future__ import annotations

from collections.abc import Sequence

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


def span_probabilities(scores: Floats, spans: Sequence[tuple[int, int, int]]) -> list[float]:
    """How probable each span is, over all consistent state sequences (forward-backward, Rabiner 1989).

    A span's probability is the share of the sequences' total weight that has exactly this span of this role: it begins
    there, goes on to its last unit and no further. So what a single unit leaves open, its neighbours can settle.

    Args:
        scores: Log-probabilities, shape (units, 1 + 2 · roles).
        spans: `(role, first unit, one past the last)`.
    """
    length, states = scores.shape
    if not spans:
        return []
    inside = np.arange(2, states, 2)
    fresh = np.setdiff1d(np.arange(states), inside)  # states that may follow any other
    forward = np.full((length, states), -np.inf)
    forward[0, fresh] = scores[0, fresh]
    for t in range(1, length):
        forward[t, fresh] = np.logaddexp.reduce(forward[t - 1])
        forward[t, inside] = np.logaddexp(forward[t - 1, inside - 1], forward[t - 1, inside])
        forward[t] += scores[t]
    total = np.logaddexp.reduce(forward[-1])
    backward = np.zeros((length + 1, states))
    # The weight of everything from unit t on, given that what was before it does not go on.
    rest = np.zeros(length + 1)
    for t in range(length - 1, -1, -1):
        rest[t] = np.logaddexp.reduce(scores[t, fresh] + backward[t, fresh])
        if t:
            backward[t - 1] = rest[t]
            going_on = np.logaddexp(rest[t], scores[t, inside] + backward[t, inside])
            backward[t - 1, inside] = backward[t - 1, inside - 1] = going_on
    out = []
    for role, first, end in spans:
        own = forward[first, 1 + 2 * role] + scores[first + 1 : end, 2 + 2 * role].sum()
        out.append(min(1.0, float(np.exp(own + rest[end] - total))))
    return out

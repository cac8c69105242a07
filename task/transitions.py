"""Structured decoding with a transition matrix that is learned from labels.

States are those of `task.viterbi`, which demands consistency only. Here a step from one state to the next also has a
score, counted from labels: log P(state | state before) - log P(state), how much more often than by chance the second
follows the first. The frequency of each state is divided out because the student's scores contain it already.
Linear-chain decoding after Lafferty et al. 2001, with counted instead of trained weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from task.viterbi import Floats

_LEAST = 1e-300


def count_transitions(paths: Iterable[Sequence[int]], roles: int, weight: float) -> tuple[tuple[float, ...], ...]:
    """Transition scores, counted with add-one smoothing, times a weight; shape (states, states).

    Args:
        paths: State sequences, one for each labelled query.
        weight: 1 gives the counts as much weight as the student's scores, which partly contain the same information.
    """
    states = 1 + 2 * roles
    pairs, single = np.ones((states, states)), np.ones(states)
    for path in paths:
        np.add.at(single, np.asarray(path, dtype=np.int64), 1)
        for before, after in itertools.pairwise(path):
            pairs[before, after] += 1
    scores = np.log(pairs / pairs.sum(1, keepdims=True)) - np.log(single / single.sum())
    return tuple(tuple(row) for row in np.round(weight * scores, 4).tolist())


def constrained_matrix(scores: npt.ArrayLike) -> Floats:
    """Transition scores with -inf where a continuation follows another state than its own role's."""
    out = np.array(scores, dtype=np.float64)
    for go_on in range(2, len(out), 2):
        column = out[:, go_on].copy()
        out[:, go_on] = -np.inf
        out[go_on - 1 : go_on + 1, go_on] = column[go_on - 1 : go_on + 1]
    return out


def best_path(scores: Floats, between: Floats) -> list[int]:
    """The best consistent state sequence (Viterbi 1967).

    Args:
        scores: Log-probabilities, shape (units, states).
        between: What `constrained_matrix` gives, shape (states, states).
    """
    if not len(scores):
        return []
    best = scores[0].copy()
    best[2::2] = -np.inf
    back = []
    for row in scores[1:]:
        ways = best[:, None] + between
        back.append(ways.argmax(0))
        best = ways.max(0) + row
    path = [int(best.argmax())]
    for before in reversed(back):
        path.append(int(before[path[-1]]))
    return path[::-1]


def probabilities(
    scores: Floats, between: Floats, path: Sequence[int], spans: Sequence[tuple[int, int, int]]
) -> tuple[float, list[float]]:
    """The probability of a path and of spans among all consistent paths (forward-backward, Rabiner 1989).

    Args:
        scores: Log-probabilities, shape (units, states).
        between: What `constrained_matrix` gives, shape (states, states).
        path: A consistent state for each unit, such as `best_path` gives.
        spans: `(role, first unit, one past the last)`; a span's probability is that of exactly this span.

    Returns:
        The path's probability; each span's.
    """
    emitted, moved = np.exp(scores), np.exp(between)
    forward, scale = _forward(emitted, moved)
    raw_probability = 1.0
    for t, state in enumerate(path):
        raw_probability *= emitted[t, state] * (moved[path[t - 1], state] if t else 1.0) / scale[t]
    after = _backward(emitted, moved, scale)
    out = []
    for role, first, end in spans:
        begin, go_on = 1 + 2 * role, 2 + 2 * role
        probability, state = forward[first, begin], begin
        for t in range(first + 1, end):
            probability *= moved[state, go_on] * emitted[t, go_on] / scale[t]
            state = go_on
        if end < len(emitted):
            leave = moved[state] * emitted[end] * after[end] / scale[end]
            probability *= leave.sum() - leave[go_on]
        out.append(min(1.0, float(probability)))
    return min(1.0, float(raw_probability)), out


def _forward(emitted: Floats, moved: Floats) -> tuple[Floats, Floats]:
    """Forward weights, scaled to sum to one for each unit, and the scales."""
    forward, scale = np.zeros_like(emitted), np.zeros(len(emitted))
    for t, row in enumerate(emitted):
        now = (forward[t - 1] @ moved if t else np.ones(len(row))) * row
        if t == 0:
            now[2::2] = 0.0
        scale[t] = max(float(now.sum()), _LEAST)
        forward[t] = now / scale[t]
    return forward, scale


def _backward(emitted: Floats, moved: Floats, scale: Floats) -> Floats:
    """Backward weights, divided by the scales of `_forward`."""
    after = np.ones_like(emitted)
    for t in range(len(emitted) - 2, -1, -1):
        after[t] = moved @ (emitted[t + 1] * after[t + 1]) / scale[t + 1]
    return after

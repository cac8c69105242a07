import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from task import transitions, viterbi
from tests.task.test_viterbi import consistent

SIZES = (st.integers(1, 4), st.integers(1, 2), st.integers(0, 10_000))


def chain(length: int, roles: int, seed: int) -> tuple[viterbi.Floats, viterbi.Floats, dict[tuple[int, ...], float]]:
    """Scores, steps, and the weight of every consistent path."""
    rng, states = np.random.default_rng(seed), 1 + 2 * roles
    scores = viterbi.log_softmax(rng.normal(size=(length, states)) * 3)
    between = transitions.constrained_matrix(rng.normal(size=(states, states)))
    weights = {
        p: float(np.exp(
            sum(scores[t, s] for t, s in enumerate(p)) + sum(between[a, b] for a, b in itertools.pairwise(p))
        ))
        for p in itertools.product(range(states), repeat=length) if consistent(p)
    }
    return scores, between, weights


@given(*SIZES)
def test_it_finds_the_best_of_all_consistent_paths(length: int, roles: int, seed: int) -> None:
    scores, between, weights = chain(length, roles, seed)
    assert transitions.best_path(scores, between) == list(max(weights, key=lambda p: weights[p]))


@given(*SIZES)
def test_probabilities_are_shares_of_all_consistent_paths(length: int, roles: int, seed: int) -> None:
    scores, between, weights = chain(length, roles, seed)
    total = sum(weights.values())
    for path, weight in weights.items():
        assert transitions.probabilities(scores, between, path, [])[0] == pytest.approx(weight / total)
    spans = [(r, a, b) for r in range(roles) for a in range(length) for b in range(a + 1, length + 1)]
    truth = [sum(w for p, w in weights.items() if s in viterbi.spans_of(list(p))) / total for s in spans]
    path = transitions.best_path(scores, between)
    assert transitions.probabilities(scores, between, path, spans)[1] == pytest.approx(truth)


@given(st.integers(0, 6), st.integers(1, 3), st.integers(0, 10_000))
def test_steps_that_say_nothing_leave_what_consistency_says(length: int, roles: int, seed: int) -> None:
    states = 1 + 2 * roles
    scores = viterbi.log_softmax(np.random.default_rng(seed).normal(size=(length, states)) * 3)
    between = transitions.constrained_matrix(np.zeros((states, states)))
    path = viterbi.best_path(scores)
    spans = viterbi.spans_of(path)
    assert transitions.best_path(scores, between) == path
    raw_probability, shares = viterbi.probabilities(scores, path, spans)
    found = transitions.probabilities(scores, between, path, spans)
    assert found == (pytest.approx(raw_probability), pytest.approx(shares))


def test_a_step_that_is_often_seen_scores_more_than_one_that_is_not() -> None:
    often = transitions.count_transitions([[1, 2, 3]] * 50 + [[3, 0]] * 5 + [[]], 2, 1.0)
    assert often[1][2] > 0 > often[1][0]
    half = np.array(transitions.count_transitions([[1, 2, 3]] * 50 + [[3, 0]] * 5, 2, 0.5))
    assert np.allclose(half, np.array(often) / 2, atol=1e-4)
    assert np.isfinite(often).all()

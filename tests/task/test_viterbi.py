import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.viterbi import best_path, log_softmax, probabilities, spans_of


def consistent(path: tuple[int, ...]) -> bool:
    previous = 0
    for state in path:
        if state and state % 2 == 0 and previous not in (state, state - 1):
            return False
        previous = state
    return True


@given(st.integers(1, 4), st.integers(1, 2), st.integers(0, 10_000))
def test_it_finds_the_best_of_all_consistent_paths(length: int, roles: int, seed: int) -> None:
    states = 1 + 2 * roles
    scores = log_softmax(np.random.default_rng(seed).normal(size=(length, states)) * 3)
    paths = [p for p in itertools.product(range(states), repeat=length) if consistent(p)]
    best = max(paths, key=lambda p: sum(scores[t, s] for t, s in enumerate(p)))
    assert best_path(scores) == list(best)


@given(st.integers(1, 4), st.integers(1, 2), st.integers(0, 10_000))
def test_the_probabilities_of_all_consistent_paths_sum_to_one(length: int, roles: int, seed: int) -> None:
    states = 1 + 2 * roles
    scores = log_softmax(np.random.default_rng(seed).normal(size=(length, states)) * 3)
    paths = [p for p in itertools.product(range(states), repeat=length) if consistent(p)]
    weights = {p: float(np.exp(sum(scores[t, s] for t, s in enumerate(p)))) for p in paths}
    found = {p: probabilities(scores, p, [])[0] for p in paths}
    assert sum(found.values()) == pytest.approx(1.0)
    assert found == pytest.approx({p: w / sum(weights.values()) for p, w in weights.items()})


@given(st.lists(st.integers(0, 6), max_size=8))
def test_any_state_sequence_gives_ordered_disjoint_spans(path: list[int]) -> None:
    last = 0
    for role, first, end in spans_of(path):
        assert 0 <= role < 3
        assert last <= first < end <= len(path)
        last = end


@given(st.integers(1, 4), st.integers(1, 2), st.integers(0, 10_000))
def test_a_span_is_as_probable_as_the_consistent_paths_that_have_it(length: int, roles: int, seed: int) -> None:
    states = 1 + 2 * roles
    scores = log_softmax(np.random.default_rng(seed).normal(size=(length, states)) * 3)
    weights = {
        p: np.exp(sum(scores[t, s] for t, s in enumerate(p)))
        for p in itertools.product(range(states), repeat=length) if consistent(p)
    }
    spans = [(r, a, b) for r in range(roles) for a in range(length) for b in range(a + 1, length + 1)]
    total = sum(weights.values())
    truth = [sum(w for p, w in weights.items() if s in spans_of(list(p))) / total for s in spans]
    assert probabilities(scores, best_path(scores), spans)[1] == pytest.approx(truth)


def test_a_neighbour_settles_what_a_unit_leaves_open() -> None:
    p = np.array([[0.5, 0.5, 0.0], [0.05, 0.05, 0.9]])
    scores = log_softmax(np.log(np.maximum(p, 1e-12)))
    assert probabilities(scores, best_path(scores), [(0, 0, 2)])[1][0] == pytest.approx(0.9 / 1.1)

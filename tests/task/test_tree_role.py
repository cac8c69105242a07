"""Roles whose values are a tree: paths there and back, and decoding against the sum over every path, one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.tree_role import TreeRole
from task.value_tree import ancestors, build
from task.viterbi import Floats
from tests.strategies import TAXONOMIES

SEPARATOR = " > "


def role(values: list[str], separator: str | None = SEPARATOR, most: int = 3) -> TreeRole:
    tree = build(values, separator, most)
    return TreeRole(
        "category", tree.values, tree.parents, tree.codes, tuple(range(tree.width)), tuple(range(tree.depth))
    )


def random_scores(tree: TreeRole, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(len(tree.probes), len(tree.symbols))) * 3


def every_path(tree: TreeRole, scores: Floats) -> Iterator[tuple[int, float]]:
    """(node, probability) of every path; node -1 is none of these. No arrays and no sharing: slow and plain."""
    def below(node: int, level: int, probability: float) -> Iterator[tuple[int, float]]:
        children = [c for c, p in enumerate(tree.parents) if p == node]
        if not children:
            yield node, probability
            return
        may_end = node < 0 or tree.values[node] != ""
        codes = [*([0] if may_end else []), *(tree.codes[c] for c in children)]
        weights = [math.exp(scores[level, c]) for c in codes]
        shares = [probability * w / sum(weights) for w in weights]
        if may_end:
            yield node, shares.pop(0)
        for child, share in zip(children, shares, strict=True):
            yield from below(child, level + 1, share)

    yield from below(-1, 0, 1.0)


def inside(tree: TreeRole, node: int, above: int) -> bool:
    while node >= 0:
        if node == above:
            return True
        node = tree.parents[node]
    return False


@given(values=TAXONOMIES, most=st.integers(2, 5), data=st.data())
def test_every_value_comes_back_from_its_path(values: list[str], most: int, data: st.DataObject) -> None:
    tree = role(values, most=most)
    value = data.draw(st.sampled_from([None, *(v for v in tree.values if v)]))
    scores = np.full((len(tree.probes), len(tree.symbols)), -20.0)
    for row, code in zip(scores, tree.path(value), strict=True):
        row[code] = 0.0
    found = tree.decode(scores)
    assert found.value == value
    assert found.probability > 0.99


@given(values=TAXONOMIES, most=st.integers(2, 5), seed=st.integers(0, 1000))
def test_the_answer_is_the_most_probable_of_all_paths(values: list[str], most: int, seed: int) -> None:
    tree = role(values, most=most)
    scores = random_scores(tree, seed)
    paths = list(every_path(tree, scores))
    assert sum(p for _, p in paths) == pytest.approx(1.0)
    best, probability = max(paths, key=lambda x: x[1])
    found = tree.decode(scores)
    assert found.value == (None if best < 0 else tree.values[best])
    whole = probability if best < 0 else sum(p for n, p in paths if inside(tree, n, best))
    assert found.probability == pytest.approx(whole)
    ranked = tree.ranked(scores, 5)
    assert [a.probability for a in ranked] == pytest.approx(sorted((p for _, p in paths), reverse=True)[:5])
    by_value = {None if n < 0 else tree.values[n]: p for n, p in paths}
    assert [a.probability for a in ranked] == pytest.approx([by_value[a.value] for a in ranked])
    assert tree.none_probability(scores) == pytest.approx(by_value[None])


@given(values=TAXONOMIES, seed=st.integers(0, 1000), least=st.floats(0.05, 1.0))
def test_a_doubtful_value_is_answered_by_the_deepest_node_that_is_probable_enough(
    values: list[str], seed: int, least: float
) -> None:
    tree = role(values)
    scores = random_scores(tree, seed)
    paths = list(every_path(tree, scores))
    best = max(paths, key=lambda x: x[1])[0]
    found = tree.decode(scores, least)
    mass = {
        tree.values[node]: sum(p for n, p in paths if inside(tree, n, node))
        for node in range(len(tree.values)) if tree.values[node]
    }
    if found.value is None:
        assert best < 0 or all(p < least + 1e-9 for p in mass.values())
        return
    assert found.probability == pytest.approx(mass[found.value])
    assert found.probability >= least
    above = [mass[a] for a in ancestors(found.value, SEPARATOR)]
    assert above == sorted(above, reverse=True)
    if mass[tree.values[best]] >= least:
        assert found.value == tree.values[best]
    else:
        deep = [len(ancestors(v, SEPARATOR)) for v, p in mass.items() if p >= least + 1e-9]
        assert len(ancestors(found.value, SEPARATOR)) == max(deep, default=len(ancestors(found.value, SEPARATOR)))


def test_a_threshold_that_no_node_reaches_gives_none_of_these_with_its_own_probability() -> None:
    tree = role(["a", "b", "c"])
    scores = np.log([[0.1, 0.4, 0.3, 0.2]])
    assert tree.decode(scores) == ("a", pytest.approx(0.4))
    assert tree.decode(scores, 0.5) == (None, pytest.approx(0.1))


def test_the_steps_of_a_value_name_what_it_was_chosen_from() -> None:
    tree = role(["a > x", "a > y", "b"])
    assert [(s.names, s.names[s.chosen]) for s in tree.steps("a")] == [
        (("nothing", "a", "b"), "a"), (("a", "a > x", "a > y"), "a"),
    ]
    assert [s.names[s.chosen] for s in tree.steps(None)] == ["nothing"]
    assert [s.names[s.chosen] for s in tree.steps("b")] == ["b"]


def test_a_score_of_minus_infinity_is_impossible_and_one_that_is_no_number_is_told() -> None:
    tree = role(["a > x", "a > y", "b"])
    scores = np.zeros((2, len(tree.symbols)))
    scores[0, [0, 2]] = -np.inf
    scores[1, [0, 1]] = -np.inf
    assert tree.decode(scores) == ("a > y", pytest.approx(1.0))
    assert math.isnan(tree.decode(np.full_like(scores, np.nan)).probability)

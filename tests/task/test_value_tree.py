"""Trees of values: every value has a path of symbols of its own, whatever the order and the number of values."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.value_tree import MOST_SYMBOLS, ancestors, build, depths, nodes, path_problem, tree_of
from tests.strategies import TAXONOMIES

SEPARATOR = " > "


@given(values=TAXONOMIES, most=st.integers(2, 5))
def test_siblings_have_different_codes_and_no_node_has_more_children_than_there_are(
    values: list[str], most: int
) -> None:
    tree = build(values, SEPARATOR, most)
    children = Counter(tree.parents)
    assert max(children.values()) <= most
    assert tree.width <= most + 1
    assert min(tree.codes) == 1
    assert len(set(zip(tree.parents, tree.codes, strict=True))) == len(tree.codes)


@given(values=TAXONOMIES, most=st.integers(2, 5))
def test_each_value_and_what_lies_above_it_is_one_node_below_the_one_above(values: list[str], most: int) -> None:
    tree = build(values, SEPARATOR, most)
    held = [v for v in tree.values if v]
    assert Counter(held) == Counter(nodes(values, SEPARATOR))
    for node, value in enumerate(tree.values):
        above = tree.parents[node]
        while above >= 0 and not tree.values[above]:
            above = tree.parents[above]
        if value:
            assert (tree.values[above] if above >= 0 else "") == SEPARATOR.join(value.split(SEPARATOR)[:-1])


@given(values=TAXONOMIES, data=st.data())
def test_the_order_of_the_values_makes_no_difference(values: list[str], data: st.DataObject) -> None:
    assert build(data.draw(st.permutations(values)), SEPARATOR, 3) == build(values, SEPARATOR, 3)


def test_a_flat_set_is_cut_into_ranges_of_equal_size() -> None:
    tree = build([f"v{i:02}" for i in range(10)], None, 4)
    inserted = [i for i, v in enumerate(tree.values) if not v]
    assert [tree.values[i] for i in range(len(inserted))] == [""] * len(inserted)
    assert Counter(tree.parents) == {-1: 4, 0: 3, 1: 3, 2: 3, 3: 1}
    assert depths(tree.parents) == [1] * 4 + [2] * 10
    assert tree.width == 5


def test_cousins_that_stand_side_by_side_have_different_symbols() -> None:
    tree = build(["a > 1", "a > 2", "b > 1", "b > 2"], SEPARATOR, 3)
    assert tree.values[2:] == ("a > 1", "a > 2", "b > 1", "b > 2")
    assert tree.codes[2:] == (1, 2, 3, 1)


def test_a_small_flat_set_has_no_tree() -> None:
    few = [str(i) for i in range(MOST_SYMBOLS)]
    assert tree_of(few, None) is None
    assert tree_of(["a"], SEPARATOR) is not None
    more = tree_of([*few, "one more"], None)
    assert more is not None
    assert (more.depth, more.width) == (2, 128)


@pytest.mark.parametrize(("value", "expected"), [
    ("a > b", None), ("a", None), ("a >  > b", "empty part"), (" > a", "empty part"), ("", "empty part"),
    ("a >  b", "blank"), ("a > b ", "blank"),
])
def test_a_malformed_path_is_told(value: str, expected: str | None) -> None:
    problem = path_problem(value, SEPARATOR)
    assert problem is None if expected is None else expected in (problem or "")


def test_the_ancestors_of_a_path_end_with_itself() -> None:
    assert ancestors("a > b > c", SEPARATOR) == ("a", "a > b", "a > b > c")

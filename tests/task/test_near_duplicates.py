from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.near_duplicates import cluster_key, clusters, near
from task.normalize import normalize_v1

QUERIES = st.lists(
    st.lists(st.sampled_from(["honey", "hony", "honye", "money", "honeys", "tea", "te", "a", "1l", "2l", "haney"]),
             max_size=3).map(" ".join) | st.text("ab ", max_size=8),
    max_size=8,
)


@pytest.mark.parametrize(("one", "other", "same"), [
    ("oat milk 1l", "milk oat 1 l", True),
    ("oat milks", "oat milk", True),
    ("oatmilk", "oat milk", True),
    ("verdant machine smoothie", "smoothie verdant machin", True),
    ("verdant machine", "verdant mahcine", True),
    ("oat milk 1l", "oat milk 2l", False),
    ("tea", "pea", False),
    ("verdant machine", "verdnt machne", False),
    ("green tea", "green", False),
    ("verdant machine", "machine verdant machine", False),
])
def test_what_is_near(one: str, other: str, same: bool) -> None:
    assert near(one, other, normalize_v1) is same
    assert near(other, one, normalize_v1) is same
    assert (len(set(clusters([one, other], normalize_v1))) == 1) is same


@given(queries=QUERIES)
def test_clusters_are_what_near_pairs_connect(queries: list[str]) -> None:
    group = list(range(len(queries)))
    for i, j in itertools.combinations(range(len(queries)), 2):
        if near(queries[i], queries[j], normalize_v1):
            group = [group[i] if g == group[j] else g for g in group]
    found = clusters(queries, normalize_v1)
    for i, j in itertools.combinations(range(len(queries)), 2):
        assert (found[i] == found[j]) == (group[i] == group[j])


@given(queries=QUERIES, data=st.data())
def test_a_cluster_has_the_same_name_in_any_order(queries: list[str], data: st.DataObject) -> None:
    named = dict(zip(queries, clusters(queries, normalize_v1), strict=True))
    shuffled = data.draw(st.permutations(queries))
    assert dict(zip(shuffled, clusters(shuffled, normalize_v1), strict=True)) == named
    for query, name in named.items():
        members = [cluster_key(q, normalize_v1) for q in queries if named[q] == name]
        assert name == min(members)
        assert cluster_key(query, normalize_v1) in members

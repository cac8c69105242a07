from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.readers import Conversion, Item
from teacher.retrieval.catalogue_table import ItemTable, write_items
from teacher.retrieval.index import Index, build_index
from teacher.retrieval.purchases import Purchases, write_purchases

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
ITEMS = st.lists(
    st.builds(Item, TEXT, TEXT, st.none() | TEXT, st.none() | TEXT, st.dictionaries(TEXT, TEXT, max_size=3)),
    max_size=8,
)


@given(items=ITEMS)
def test_items_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, items: list[Item]) -> None:
    path = tmp_path_factory.mktemp("items") / "catalogue.arrow"
    write_items(path, items)
    table = ItemTable(path)
    assert list(table) == items == table[:] == [table[i] for i in range(len(items))]
    sent = pickle.dumps(table)
    assert len(sent) < 1000
    assert list(pickle.loads(sent)) == items


@given(bought=st.lists(st.tuples(TEXT, st.integers(0, 4), st.integers(1, 9)), max_size=20), other=TEXT)
def test_purchases_are_those_of_the_rows_added_up(
    tmp_path_factory: pytest.TempPathFactory, bought: list[tuple[str, int, int]], other: str
) -> None:
    folder = tmp_path_factory.mktemp("purchases")
    catalogue = [Item(str(i), "x") for i in range(5)]
    queries = write_purchases(folder, catalogue, [Conversion(q, str(i), n) for q, i, n in bought])
    truth: dict[str, Counter[int]] = {}
    for query, item, count in bought:
        truth.setdefault(query, Counter())[item] += count
    purchases = Purchases(folder)
    assert list(purchases.queries) == queries == sorted(truth)
    for row, query in enumerate(queries):
        assert purchases.of(query) == purchases.at(row) == truth[query]
    assert purchases.of(other) == truth.get(other, {})


CATALOGUE = [Item("1", "Oat Milk", "oatly"), Item("2", "Loo Roll", "soft")]
BOUGHT = [Conversion("oat drink", "1", 3)]


def test_the_same_tables_are_indexed_once_and_others_anew(tmp_path: Path, embedder_folder: Path) -> None:
    first = build_index(CATALOGUE, BOUGHT, model=embedder_folder, folder=tmp_path)
    made = first.stat().st_mtime_ns
    assert build_index(CATALOGUE, BOUGHT, model=embedder_folder, folder=tmp_path) == first
    assert first.stat().st_mtime_ns == made
    index = Index(first)
    assert list(index.items) == CATALOGUE
    assert index.purchases.of("oat drink") == {0: 3}
    assert (len(index.bought), len(list(tmp_path.glob("index-*")))) == (1, 1)
    other = build_index([*CATALOGUE, Item("3", "Tea")], BOUGHT, model=embedder_folder, folder=tmp_path)
    assert list(tmp_path.glob("index-*")) == [other] != [first]


def test_what_a_killed_build_left_is_no_index(tmp_path: Path, embedder_folder: Path) -> None:
    (tmp_path / ".index.tmp" / "items").mkdir(parents=True)
    (tmp_path / ".index.tmp" / "items" / "vectors.npy").write_bytes(b"half")
    index = Index(build_index(CATALOGUE, BOUGHT, model=embedder_folder, folder=tmp_path))
    assert len(index.items) == 2
    assert not (tmp_path / ".index.tmp").exists()


def test_nothing_at_all_can_be_indexed(tmp_path: Path, embedder_folder: Path) -> None:
    index = Index(build_index((), (), model=embedder_folder, folder=tmp_path))
    assert (len(index.items), len(index.bought), index.purchases.of("x")) == (0, 0, {})

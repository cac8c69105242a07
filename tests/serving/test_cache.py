from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.cache import HeadCache
from task.labels import Example, Label
from tests.strategies import examples

FAST = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
MILK = Example("Oat milk 1l", (Label("product", "Oat milk", 0, 8, 0.9), Label("size", "1l", 9, 11), Label("a", "b")))


def build(folder: Path, *rows: Example) -> HeadCache:
    HeadCache.build(folder, rows, "v1")
    return HeadCache(folder, "v1")


@given(rows=st.lists(examples(), max_size=8), other=examples())
@FAST
def test_it_returns_what_was_put_in_and_nothing_else(tmp_path: Path, rows: list[Example], other: Example) -> None:
    from task.normalize import normalize_v1

    cache = build(tmp_path, *rows)
    first = {}
    for row in rows:
        first.setdefault(normalize_v1(row.query), row)
    assert len(cache) == len(first)
    for row in first.values():
        assert cache.get(row.query) == row.labels
    if normalize_v1(other.query) not in first:
        assert cache.get(other.query) is None


def test_the_same_text_in_other_clothes_gets_spans_of_its_own(tmp_path: Path) -> None:
    found = build(tmp_path, MILK).get("  OAT   milk\t1l")
    assert found == (Label("product", "OAT   milk", 2, 12, 0.9), Label("size", "1l", 13, 15), Label("a", "b"))


@pytest.mark.parametrize("query", ["oat milk", "oat milk 1 l", "milk oat 1l", "oat milks 1l", "no oat milk 1l"])
def test_what_merely_resembles_is_a_miss(tmp_path: Path, query: str) -> None:
    assert build(tmp_path, MILK).get(query) is None


def test_an_empty_cache_and_a_torn_one(tmp_path: Path) -> None:
    assert build(tmp_path / "a").get("x") is None
    build(tmp_path / "b", MILK)
    (tmp_path / "b" / "values.bin").write_bytes(b"{")
    with pytest.raises(ValueError, match="do not fit together"):
        HeadCache(tmp_path / "b", "v1")

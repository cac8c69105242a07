from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.release.head_cache import HeadCache
from serving.release.head_cache import build as write
from task.errors import InputError
from task.labels import Example, Label
from tests.strategies import examples

FAST = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
MILK = Example("Oat milk 1l", (Label("product", "Oat milk", 0, 8, 0.9), Label("size", "1l", 9, 11), Label("a", "b")))


def build(folder: Path, *rows: Example) -> HeadCache:
    write(folder, rows, normaliser_name="v1", key="key")
    return HeadCache(folder)


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
    with pytest.raises(InputError, match="are inconsistent"):
        HeadCache(tmp_path / "b")
    (tmp_path / "b" / "cache.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="another format"):
        HeadCache(tmp_path / "b")
    with pytest.raises(InputError, match="no head cache here"):
        HeadCache(tmp_path)


def test_a_thousand_are_found_and_a_thousand_others_are_not(tmp_path: Path) -> None:
    rows = [Example(f"query {i}", (Label("product", "query", 0, 5),)) for i in range(1_000)]
    cache = build(tmp_path, *rows)
    assert all(cache.get(r.query) == r.labels for r in rows)
    assert not any(cache.get(f"other {i}") for i in range(1_000))
    assert sorted(cache.queries()) == sorted(r.query for r in rows)


@given(at=st.integers(0, 200), bit=st.integers(0, 7))
@FAST
def test_a_damaged_record_is_a_miss_not_an_answer(tmp_path: Path, at: int, bit: int) -> None:
    cache = build(tmp_path, MILK)
    path = tmp_path / "values.bin"
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data)
    assert HeadCache(tmp_path).get(MILK.query) is None
    del cache


def test_two_texts_with_one_hash_are_not_confused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.release.head_cache.text_hash", lambda _: 7)
    cache = build(tmp_path, MILK, Example("rice milk", (Label("product", "rice milk", 0, 9),)))
    assert cache.get(MILK.query) == MILK.labels
    assert cache.get("rice milk") is None


@given(st.text(st.characters(max_codepoint=0x250), max_size=30))
@FAST
def test_the_short_way_of_the_normaliser_says_what_the_long_one_does(text: str) -> None:
    import unicodedata

    from task.normalize import normalize_v1

    found = normalize_v1(text)
    assert normalize_v1(found) == found
    if text.isascii():
        spaced = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
        assert found == " ".join(spaced.casefold().split())

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.codec import Codec
from task.labels import Label
from task.tokenizer import FastTokenizer
from task.validation import resolve, violation
from tests.conftest import make_task

TASK = make_task()


@pytest.mark.parametrize(("label", "kind", "what"), [
    (Label("price", "1", 0, 1), "unknown_value", "price"), (Label("aisle", "wine"), "unknown_value", "not a value"),
    (Label("product", "oat"), "rule", "no span"), (Label("product", "oat", 1, 4), "rule", "its span"),
    (Label("product", "oat milk!", 0, 9), "rule", "does not occur"),
    (Label("product", "oat", 9, 12), "rule", "no span"),
    (Label("product", "milk", 4, 99), "rule", "no span"), (Label("product", "milk", -4, 8), "rule", "no span"),
    (Label("product", " ", 3, 4), "rule", "empty"),
    (Label("aisle", "dairy", 0, 5), "rule", "a span for the closed role"),
    (Label("product", "oat", 0, 3, 1.5), "rule", "confidence"),
    (Label("product", "oat", 0, 3, float("nan")), "rule", "confidence"),
])
def test_what_a_task_does_not_allow_is_named(label: Label, kind: str, what: str) -> None:
    found = violation(TASK, "oat milk", [Label("product", "milk", 4, 8), label])
    assert found is not None
    assert (found.kind, what in found.detail) == (kind, True)


def test_one_value_where_one_is_allowed() -> None:
    two = [Label("brand", "oat", 0, 3), Label("brand", "milk", 4, 8)]
    found = violation(TASK, "oat milk", two)
    assert found is not None
    assert (found.kind, found.detail) == ("rule", "two values of 'brand', which takes one")
    assert violation(TASK, "oat milk", two[:1]) is None
    assert violation(TASK, "oat milk", [Label("product", "oat", 0, 3), Label("product", "milk", 4, 8)]) is None


RULES = make_task(roles=[
    {"name": "a", "excludes": ["b"]}, {"name": "b"}, {"name": "c", "requires": ["a", "d"]},
    {"name": "d", "requires": ["b"]}, {"name": "e", "requires": ["d"]},
])
WORDS = {role: Label(role, role, at, at + 1) for at, role in zip(range(0, 10, 2), "abcde", strict=True)}


@pytest.mark.parametrize(("roles", "what"), [
    ("ab", "'a' with 'b', which it excludes"), ("c", "'c' without 'a' or 'd', which it requires"), ("ac", None),
    ("bdc", None), ("bde", None), ("ad", "'d' without 'b', which it requires"),
])
def test_roles_that_need_or_exclude_each_other(roles: str, what: str | None) -> None:
    found = violation(RULES, "a b c d e", [WORDS[r] for r in roles])
    assert (found and found.detail) == what


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.none() | st.floats(0.0, 1.0)), max_size=8))
def test_what_is_left_after_the_rules_obeys_them(drawn: list[tuple[str, float | None]]) -> None:
    labels = [replace(WORDS[role], confidence=confidence) for role, confidence in drawn]
    found = resolve(RULES, labels)
    assert violation(RULES, "a b c d e", found) is None
    assert set(found) <= set(labels)
    if violation(RULES, "a b c d e", labels) is None:
        assert sorted(map(str, found)) == sorted(map(str, labels))
    if ("a", 0.9) in drawn and all(c is None or c < 0.9 for role, c in drawn if role == "b"):
        assert any(x.role == "a" for x in found)


def test_the_more_probable_of_two_that_exclude_each_other_stays() -> None:
    unsure, sure = replace(WORDS["a"], confidence=0.4), replace(WORDS["b"], confidence=0.9)
    assert resolve(RULES, [unsure, sure]) == (sure,)


@given(query=st.text(max_size=30), data=st.data())
def test_whatever_a_student_says_is_allowed(query: str, data: st.DataObject, tokenizer: FastTokenizer) -> None:
    codec = Codec.compile(TASK, [], tokenizer)
    rows = codec.symbol_count(query)
    cell = st.floats(-30, 30, width=32)
    scores = data.draw(st.lists(
        st.lists(cell, min_size=len(codec.symbol_ids), max_size=len(codec.symbol_ids)), min_size=rows, max_size=rows
    ))
    labels, raw_probability = codec.decode_scores_with_probability(query, scores)
    assert violation(TASK, query, labels) is None
    assert 0.0 <= raw_probability <= 1.0



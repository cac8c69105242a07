"""Kinds of mistakes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eval.error_analysis import by_kind, mistakes
from eval.matching import count
from task.labels import Example, Label
from tests.conftest import make_task

QUERY = "verdant machine oat milk"


def label(text: str, role: str = "product") -> Label:
    return Label(role, text, QUERY.index(text), QUERY.index(text) + len(text))


def kinds(gold: list[Label], predicted: list[Label]) -> list[str]:
    return [m.kind for m in mistakes(Example(QUERY, tuple(gold)), Example(QUERY, tuple(predicted)), str)]


def test_each_kind_is_told_from_the_others() -> None:
    assert kinds([label("oat milk")], [label("oat milk")]) == []
    assert kinds([label("oat milk")], []) == ["missed"]
    assert kinds([], [label("oat milk")]) == ["invented"]
    assert kinds([label("oat milk")], [label("milk")]) == ["extent"]
    assert kinds([label("oat milk")], [label("oat milk", "brand")]) == ["role"]
    assert kinds([label("oat milk")], [label("machine oat", "brand")]) == ["extent and role"]
    assert kinds([Label("aisle", "dairy")], [Label("aisle", "bakery")]) == ["value"]
    assert kinds([label("oat milk")], [label("verdant")]) == ["missed", "invented"]


def test_a_label_is_paired_with_what_is_nearest_and_only_once() -> None:
    """The same words with another role come before the same role on other words."""
    assert kinds([label("oat milk")], [label("milk"), label("oat milk", "brand")]) == ["role", "invented"]
    assert kinds([label("oat"), label("milk")], [label("oat milk")]) == ["missed", "extent"]


def test_mistakes_that_both_make_are_counted_by_slice() -> None:
    task = make_task()
    gold = [Example(QUERY, (label("oat milk"), label("verdant machine", "brand")))] * 2
    student = [Example(QUERY, (label("milk"),)), Example(QUERY, (label("oat milk"),))]
    teacher = [Example(QUERY, (label("milk"), label("verdant machine", "brand"))), gold[1]]
    found = by_kind(gold, student, task, slices=["head", "tail"], other=teacher)
    assert found["labels"] == {"head": 2, "tail": 2}
    rows = {r["kind"]: r for r in found["rows"]}
    assert rows["missed"]["count"] == {"head": 1, "tail": 1}
    assert rows["missed"]["roles"] == {"brand": 2}
    assert rows["missed"]["shared"] == 0.0
    assert rows["extent"]["shared"] == 1.0
    asked = by_kind(gold, student, task, other=[None, gold[1]])  # a row that the other was not asked about
    assert {r["kind"]: r["shared"] for r in asked["rows"]} == {"missed": 0.0, "extent": None}


spans = st.lists(st.builds(
    lambda role, a, b: label(" ".join(QUERY.split()[min(a, b) : max(a, b) + 1]), role),
    st.sampled_from(["brand", "product"]), st.integers(0, 3), st.integers(0, 3),
), max_size=4)


@given(gold=spans, predicted=spans)
def test_every_false_positive_and_negative_is_in_one_mistake(gold: list[Label], predicted: list[Label]) -> None:
    a, b = Example(QUERY, tuple(gold)), Example(QUERY, tuple(predicted))
    found = mistakes(a, b, str)
    _, false, missed = count([a], [b], ["brand", "product"], "value", str)[0].sum(axis=0)
    assert sum(m.predicted is not None for m in found) == false
    assert sum(m.gold is not None for m in found) == missed

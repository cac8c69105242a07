from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.codec import Codec
from task.labels import Label
from task.tokenizer import FastTokenizer
from task.validation import violation
from tests.conftest import make_task

TASK = make_task()


@pytest.mark.parametrize(("label", "what"), [
    (Label("price", "1", 0, 1), "price"), (Label("product", "oat"), "no span"),
    (Label("product", "oat", 1, 4), "its span"), (Label("product", "oat milk!", 0, 9), "does not occur"),
    (Label("product", "oat", 9, 12), "no span"), (Label("aisle", "wine"), "not a value"),
    (Label("aisle", "dairy", 0, 5), "a span for the closed role"), (Label("product", "oat", 0, 3, 1.5), "confidence"),
])
def test_what_a_task_does_not_allow_is_named(label: Label, what: str) -> None:
    assert what in (violation(TASK, "oat milk", [label]) or "")


def test_one_value_where_one_is_allowed() -> None:
    two = [Label("brand", "oat", 0, 3), Label("brand", "milk", 4, 8)]
    assert "two values" in (violation(TASK, "oat milk", two) or "")
    assert violation(TASK, "oat milk", two[:1]) is None
    assert violation(TASK, "oat milk", [Label("product", "oat", 0, 3), Label("product", "milk", 4, 8)]) is None


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



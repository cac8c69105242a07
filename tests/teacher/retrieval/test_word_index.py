"""The items that have every word of a text, against a look at each item."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from task.readers import Item
from teacher.retrieval.word_index import WordIndex

TEXTS = st.lists(st.sampled_from(["oat", "Oat", "milk", "1l", "牛奶", "é", "-", "a-b"]), max_size=4).map(" ".join)


@given(titles=st.lists(TEXTS, max_size=6), text=TEXTS)
def test_a_text_is_found_where_one_item_has_all_its_words(titles: list[str], text: str) -> None:
    words = set(re.findall(r"\w+", text.casefold()))
    expected = bool(words) and any(words <= set(re.findall(r"\w+", t.casefold())) for t in titles)
    assert WordIndex([Item(str(n), t) for n, t in enumerate(titles)]).has_all_words(text) == expected


def test_category_and_attributes_are_searched_too_and_the_fingerprint_is_of_the_texts() -> None:
    item = Item("1", "Drink", "Acme", "Food > Dairy", {"colour": "white"})
    assert WordIndex([item]).has_all_words("white dairy drink")
    same = Item("2", "Drink", None, "Food > Dairy", {"x": "white"})
    assert WordIndex([item]).fingerprint == WordIndex([same]).fingerprint
    assert WordIndex([item]).fingerprint != WordIndex([item, item]).fingerprint

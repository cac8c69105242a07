"""The items that have every word of a text, against a look at each item; in memory and from a folder."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.errors import InputError
from task.files import read_json, write_json
from task.labels import Label
from task.word_index import WordIndex, findable, is_wanted
from tests.conftest import make_task

TEXTS = st.lists(st.sampled_from(["oat", "Oat", "milk", "1l", "牛奶", "é", "-", "a-b"]), max_size=4).map(" ".join)


@given(titles=st.lists(TEXTS, max_size=6), text=TEXTS)
def test_a_text_is_found_where_one_item_has_all_its_words(titles: list[str], text: str) -> None:
    words = set(re.findall(r"\w+", text.casefold()))
    expected = bool(words) and any(words <= set(re.findall(r"\w+", t.casefold())) for t in titles)
    made = WordIndex.of(titles)
    assert made.has_all_words(text) == expected
    with tempfile.TemporaryDirectory() as folder:
        made.write(Path(folder))
        opened = WordIndex.open(Path(folder))
        assert opened.has_all_words(text) == expected
        assert opened.fingerprint == made.fingerprint


def test_items_with_the_same_words_take_no_more_room(tmp_path: Path) -> None:
    for name, titles in (("one", ["oat milk 1l"]), ("many", ["oat milk 1l", "Milk oat 1l", "1L oat milk"])):
        WordIndex.of(titles).write(tmp_path / name)
    one, many = ((tmp_path / n / "rows.npy").read_bytes() for n in ("one", "many"))
    assert one == many
    assert WordIndex.of(["oat"]).fingerprint != WordIndex.of(["oat", "oat"]).fingerprint


def test_another_format_is_refused(tmp_path: Path) -> None:
    WordIndex.of(["oat milk"]).write(tmp_path)
    write_json(tmp_path / "index.json", read_json(tmp_path / "index.json") | {"format": 2})
    with pytest.raises(InputError, match="another format"):
        WordIndex.open(tmp_path)


def test_only_texts_that_have_to_find_an_item_are_left_out() -> None:
    task = make_task(
        roles=[
            {"name": "product"}, {"name": "synonym", "kind": "text", "grounded": True},
            {"name": "broader", "kind": "text"},
        ],
        student={"form": "write"}, data={"dir": ".", "labels": "l.jsonl", "catalogue": "c.jsonl"},
    )
    labels = (
        Label("product", "oat", 0, 3), Label("synonym", "oat drink"), Label("synonym", "unicorn"),
        Label("broader", "unicorn"),
    )
    assert findable(task, labels, WordIndex.of(["Oat Drink 1l"])) == (labels[0], labels[1], labels[3])
    assert findable(task, labels, None) == labels
    assert (is_wanted(task), is_wanted(make_task())) == (True, False)

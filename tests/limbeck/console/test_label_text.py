"""A text is found wherever a query has it, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from limbeck.console import label_text
from limbeck.console.label_text import containing, pairs_of, texts_as_bytes

TEXTS = st.text(st.sampled_from("aab牛奶\0 é🥛"), max_size=12)


class Block(dict[str, NDArray[Any]]):
    """The columns of a search, in memory."""

    def part(self, name: str, start: int, end: int) -> NDArray[Any]:
        return self[name][start:end]

    def raw(self, name: str) -> bytes:
        return self[name].tobytes()


def block(texts: Sequence[str], same: bool = False) -> Block:
    data, at = texts_as_bytes(texts)
    none, none_at = texts_as_bytes([])
    own = {"query": data, "query_at": at, "folded": none, "folded_at": none_at} if same else {
        "folded": data, "folded_at": at
    }
    return Block({**own, **pairs_of(data, at)})


@pytest.mark.parametrize("few", [0, 1_000])
@given(texts=st.lists(TEXTS, min_size=1, max_size=20), wanted=TEXTS.filter(bool), data=st.data(), same=st.booleans())
def test_what_is_found_is_what_python_finds(
    few: int, texts: list[str], wanted: str, data: st.DataObject, same: bool
) -> None:
    among = np.array(data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_text, "_FEW", few)
        found = containing(block(texts, same), among, wanted)
    assert found.tolist() == [bool(a) and wanted in t for a, t in zip(among, texts, strict=True)]


def test_no_query_is_read_for_two_bytes() -> None:
    columns = block(["oat milk", "rye", "milk"])
    del columns["folded"], columns["folded_at"]
    assert containing(columns, np.ones(3, np.bool_), "mi").tolist() == [True, False, True]
    assert containing(columns, np.ones(3, np.bool_), "y").tolist() == [False, True, False]
    assert containing(columns, np.ones(3, np.bool_), "xyz").tolist() == [False] * 3


def test_a_text_that_is_longer_than_all_queries_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_text, "_FEW", 0)
    assert containing(block(["aba", "bab"]), np.ones(2, np.bool_), "abababababa").tolist() == [False, False]

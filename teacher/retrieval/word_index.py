"""Which items of the catalogue have all words of a text: a search that demands every word, in memory.

BM25 (`hybrid_search`) ranks what shares any word with a query, so almost every text finds something by it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable

import numpy as np

from task.readers import Item
from teacher.retrieval.hybrid_search import item_text, words_of


class WordIndex:
    """The rows of items by word; words and texts of items are those of the BM25 index.

    Attributes:
        fingerprint: Changes with the texts of the items.
    """

    def __init__(self, catalogue: Iterable[Item]) -> None:
        self._rows: dict[str, array[int]] = {}
        digest = hashlib.sha256()
        for row, item in enumerate(catalogue):
            text = item_text(item)
            digest.update(text.encode() + b"\n")
            for word in set(words_of(text)):
                self._rows.setdefault(word, array("I")).append(row)
        self.fingerprint = digest.hexdigest()

    def has_all_words(self, text: str) -> bool:
        """Whether one item has every word of a text; False for a text without words."""
        lists = sorted((self._rows.get(w, array("I")) for w in set(words_of(text))), key=len)
        if not lists or not lists[0]:
            return False
        found = np.array(lists[0])
        for rows in lists[1:]:
            found = np.intersect1d(found, np.array(rows), assume_unique=True)
        return bool(len(found))

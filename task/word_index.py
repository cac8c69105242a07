"""Which items of a catalogue have all words of a text: a search that demands every word.

BM25 ranks what shares any word with a query, so almost every text finds something by it. This index says whether a
rewrite finds an item that is about all of it: the guardrail `grounded` asks it, and so does a server, whose bundle has
it in a folder:

index.json   format, and the fingerprint of the catalogue
words.txt    the words, one a line, sorted
starts.npy   for each word, where its rows begin; one more for the end of the last
rows.npy     the rows of the items that have a word, ascending, word after word

Items with the same words are one row, so the rows are not those of the catalogue.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from task.errors import InputError
from task.files import read_json, write_json, write_text
from task.labels import Labelling
from task.spec import Task

# Increase this when the same catalogue has other words: bundles are then made again.
VERSION: Final = 1
_FORMAT = 1
_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words that BM25 counts: letters and digits, without regard to case."""
    return _WORD.findall(text.casefold())


class WordIndex:
    """The rows of items by word.

    Attributes:
        fingerprint: Changes with the texts of the items.
    """

    def __init__(
        self, words: Iterable[str], starts: npt.NDArray[np.int64], rows: npt.NDArray[np.uint32], fingerprint: str
    ) -> None:
        """Take the parts of an index, as `of` makes and `open` reads them.

        Args:
            words: Sorted.
            starts: Where the rows of each word begin, shape (words + 1,).
            rows: Ascending for each word.
        """
        self._places = {word: at for at, word in enumerate(words)}
        self._starts, self._rows = starts, rows
        self.fingerprint = fingerprint

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """The index of the texts of items; of two items with the same words it has one."""
        digest = hashlib.sha256()
        found: dict[frozenset[str], None] = {}
        for text in texts:
            digest.update(text.encode() + b"\n")
            found.setdefault(frozenset(words_of(text)))
        rows: dict[str, array[int]] = {}
        for row, words in enumerate(found):
            for word in words:
                rows.setdefault(word, array("I")).append(row)
        order = sorted(rows)
        starts = np.zeros(len(order) + 1, dtype=np.int64)
        np.cumsum([len(rows[w]) for w in order], out=starts[1:])
        flat = np.concatenate([np.empty(0, np.uint32), *(np.array(rows[w], dtype=np.uint32) for w in order)])
        return cls(order, starts, flat, digest.hexdigest())

    def write(self, folder: Path) -> None:
        """Write the index into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "words.txt", "".join(f"{word}\n" for word in self._places))
        np.save(folder / "starts.npy", self._starts, allow_pickle=False)
        np.save(folder / "rows.npy", self._rows, allow_pickle=False)
        write_json(folder / "index.json", {"format": _FORMAT, "fingerprint": self.fingerprint})

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a written index; the rows are mapped, so that all processes share them.

        Raises:
            InputError: Another format.
        """
        about = read_json(folder / "index.json")
        if about.get("format") != _FORMAT:
            raise InputError(
                "the words of the catalogue are in another format", file=folder, found=about.get("format"),
                expected=str(_FORMAT), fix="Make the bundle again with `limbeck bundle TASK`",
            )
        words = (folder / "words.txt").read_text(encoding="utf-8").split("\n")[:-1]
        starts, rows = (np.load(folder / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in ("starts", "rows"))
        return cls(words, starts, rows, str(about["fingerprint"]))

    def has_all_words(self, text: str) -> bool:
        """Whether one item has every word of a text; False for a text without words."""
        places = [self._places.get(w) for w in set(words_of(text))]
        if not places or None in places:
            return False
        lists = sorted((self._rows[self._starts[p] : self._starts[p + 1]] for p in places if p is not None), key=len)
        found: npt.NDArray[Any] = np.asarray(lists[0])
        for rows in lists[1:]:
            at = np.minimum(np.searchsorted(rows, found), len(rows) - 1)
            found = found[rows[at] == found]
        return bool(len(found))


def is_wanted(task: Task) -> bool:
    """Whether a text role of the task must find items of the catalogue."""
    return any(r.grounded for r in task.text_roles)


def findable(task: Task, labels: Labelling, items: WordIndex | None) -> Labelling:
    """Labels without the texts of grounded roles that find no item; all of them where nothing is known of the items."""
    if items is None:
        return labels
    grounded = {r.name for r in task.text_roles if r.grounded}
    return tuple(x for x in labels if x.role not in grounded or items.has_all_words(x.text))

"""Hybrid retrieval over the catalogue: BM25 (Robertson and Zaragoza 2009) and dense vectors, fused.

Reciprocal rank fusion (Cormack et al. 2009): an item's score is the sum over both lists of 1 / (k + rank).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from task.progress import Progress, quiet
from task.readers import Item
from task.settings import Retrieval
from task.spec import Task
from task.word_index import WordIndex, is_wanted, words_of
from teacher.retrieval.embedder import Vectors
from teacher.retrieval.embedding_store import Rows
from teacher.retrieval.nearest_neighbours import VectorIndex, write_vectors

# Compiled (numba), bm25s is about 20 times faster, but compiling takes ten seconds in every process.
_COMPILED_FROM = 20_000


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved row and its fused score, scaled so that first in both lists is 1."""

    row: int
    score: float


class HybridIndex:
    """BM25 index and dense vectors of a list of texts, memory-mapped from a folder written by `write_hybrid`."""

    def __init__(self, folder: Path, settings: Retrieval) -> None:
        self._settings = settings
        self._dense = VectorIndex(folder)
        self._bm25: Any = None
        self._size = 0
        if (folder / "bm25").exists():
            import bm25s

            self._bm25 = bm25s.BM25.load(str(folder / "bm25"), mmap=True)
            self._size = int(self._bm25.scores["num_docs"])
            if self._size > _COMPILED_FROM:
                self._bm25.backend = "numba"
                self._bm25.activate_numba_scorer()

    def __len__(self) -> int:
        return self._size

    def search(self, queries: Sequence[str], vectors: Vectors) -> list[list[Hit]]:
        """The best `settings.items` rows for each query, best first; ties go to the lower row."""
        depth = min(self._settings.depth, len(self))
        if not depth:
            return [[] for _ in queries]
        lists = zip(self.lexical(queries, depth), self.dense(vectors, depth), strict=True)
        return [fuse(pair, self._settings) for pair in lists]

    def lexical(self, queries: Sequence[str], count: int) -> list[list[int]]:
        """Up to `count` rows that share a word with each query, best BM25 score first; ties go to the lower row.

        Queries without a word are not searched for. An empty word, which bm25s (0.3.16) has in its vocabulary, is
        refused by an index none of whose texts is empty.
        """
        out: list[list[int]] = [[] for _ in queries]
        words = {at: found for at, query in enumerate(queries) if (found := words_of(query))}
        if words:
            rows, scores = self._bm25.retrieve([*words.values()], k=min(count + 1, len(self)), show_progress=False)
            for (at, query), row, score in zip(words.items(), rows, scores, strict=True):
                out[at] = self._ordered(query, row, score, count)
        return out

    def _ordered(self, words: list[str], rows: Rows, scores: Vectors, count: int) -> list[int]:
        """The best `count` of one row more than that, ties to the lower row.

        bm25s (0.3) returns equal scores in any order, and any of the rows that share the last place, according to its
        backend and the size of the index.
        """
        if len(rows) > count and scores[count] == scores[count - 1] > 0:  # more rows may have this score
            every = self._bm25.get_scores(words)
            near = np.flatnonzero(every >= scores[count])
            last = every[near] == scores[count]
            rows = np.concatenate([near[~last], near[last][:count]])
            scores = every[rows]
        order = np.lexsort((rows, -scores))[:count]
        found: list[int] = rows[order][scores[order] > 0].tolist()
        return found

    def dense(self, vectors: Vectors, count: int) -> list[list[int]]:
        """The `count` rows nearest to each query's vector, nearest first; ties go to the lower row."""
        rows: list[list[int]] = self._dense.search(vectors, count)[0].tolist()
        return rows


def fuse(lists: Sequence[Sequence[int]], settings: Retrieval) -> list[Hit]:
    """Reciprocal rank fusion of lists of rows, each best first."""
    k = settings.rrf_k
    fused: dict[int, float] = {}
    for rows in lists:
        for rank, row in enumerate(rows, 1):
            fused[row] = fused.get(row, 0.0) + (k + 1) / (len(lists) * (k + rank))
    best = sorted(fused.items(), key=lambda x: (-x[1], x[0]))[: settings.items]
    return [Hit(row, score) for row, score in best]


def write_hybrid(
    folder: Path, texts: Sequence[str], table: Vectors, rows: Rows, progress: Progress = quiet
) -> None:
    """Write the index of texts into a folder.

    Args:
        rows: The rows of `table` with the texts' embeddings.
    """
    write_vectors(folder, table, rows, progress)
    write_lexical(folder, texts)


def write_lexical(folder: Path, texts: Sequence[str]) -> None:
    """Write a BM25 index of texts into a folder; writes nothing if there are no texts."""
    import bm25s

    if texts:
        lexical: Any = bm25s.BM25()
        lexical.index([words_of(t) for t in texts], show_progress=False)
        lexical.save(str(folder / "bm25"), show_progress=False)


def item_text(item: Item) -> str:
    """The text that an item is searched by: title, category, and the attribute values that the title lacks."""
    title = item.title.casefold()
    more = [v for v in item.attributes.values() if v.casefold() not in title]
    return " ".join([item.title, item.category or "", *more])


def item_words(task: Task, catalogue: Iterable[Item]) -> WordIndex | None:
    """The words of the items, for a task of whose texts some must find one; None for another task."""
    return WordIndex.of(item_text(i) for i in catalogue) if is_wanted(task) else None

"""Hybrid retrieval over the catalogue: BM25 (Robertson and Zaragoza 2009) and dense vectors, fused.

Reciprocal rank fusion (Cormack et al. 2009): an item's score is the sum over both lists of 1 / (k + rank).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from task.io import Item
from task.spec import Retrieval
from teacher.embed import Vectors

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved row and its fused score, scaled so that first in both lists is 1."""

    row: int
    score: float


class HybridIndex:
    """BM25 and dense vectors of one list of texts."""

    def __init__(self, texts: Sequence[str], vectors: Vectors, settings: Retrieval) -> None:
        import bm25s

        self._settings = settings
        self._vectors = vectors
        self._bm25: Any = bm25s.BM25()
        self._bm25.index([_words(t) for t in texts], show_progress=False)
        self._size = len(texts)

    def search(self, queries: Sequence[str], vectors: Vectors) -> list[list[Hit]]:
        """The best `settings.items` rows for each query, best first; ties go to the lower row."""
        depth = min(self._settings.depth, self._size)
        lexical, scores = self._bm25.retrieve([_words(q) or [""] for q in queries], k=depth, show_progress=False)
        dense = top_rows(vectors @ self._vectors.T, depth)
        return [
            self._fuse([int(r) for r, s in zip(lex, score, strict=True) if s > 0], [int(r) for r in den])
            for lex, score, den in zip(lexical, scores, dense, strict=True)
        ]

    def _fuse(self, *lists: list[int]) -> list[Hit]:
        k = self._settings.rrf_k
        fused: dict[int, float] = {}
        for rows in lists:
            for rank, row in enumerate(rows, 1):
                fused[row] = fused.get(row, 0.0) + (k + 1) / (len(lists) * (k + rank))
        best = sorted(fused.items(), key=lambda x: (-x[1], x[0]))[: self._settings.items]
        return [Hit(row, score) for row, score in best]


def top_rows(similarity: npt.NDArray[np.float32], depth: int) -> npt.NDArray[np.int64]:
    """Columns of the `depth` largest values of each row, largest first."""
    depth = min(depth, similarity.shape[1])
    part = np.argpartition(-similarity, depth - 1, axis=1)[:, :depth]
    order = np.argsort(-np.take_along_axis(similarity, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1)


def item_text(item: Item) -> str:
    """What an item is searched by: title, category, and the attributes that the title does not say."""
    title = item.title.casefold()
    more = [v for v in item.attributes.values() if v.casefold() not in title]
    return " ".join([item.title, item.category or "", *more])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())

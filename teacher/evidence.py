"""Evidence: what catalogue, conversions and neighbouring queries say about a query."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from task.io import Conversion, Item
from task.labels import Example
from task.spec import Task
from teacher.embed import Embedder, Vectors
from teacher.retrieval import Hit, HybridIndex, item_text, top_rows

_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found for one query.

    Attributes:
        items: Rows of the catalogue by hybrid search, best first.
        conversions: Catalogue row → purchases after this very query.
        neighbours: Similar queries of the log that led to purchases, with cosine similarity.
        neighbour_conversions: Catalogue row → similarity-weighted purchases after those.
    """

    items: tuple[Hit, ...]
    conversions: Mapping[int, int]
    neighbours: tuple[tuple[str, float], ...]
    neighbour_conversions: Mapping[int, float]

    def to_json(self, catalogue: Sequence[Item], limit: int = 6) -> dict[str, Any]:
        """A short form, stored with the label."""
        bought = sorted(self.conversions.items(), key=lambda x: (-x[1], x[0]))[:limit]
        return {
            "items": [catalogue[h.row].id for h in self.items[:limit]],
            "conversions": {catalogue[r].id: n for r, n in bought},
            "neighbours": [q for q, _ in self.neighbours[:limit]],
        }


class EvidenceFinder:
    """Finds evidence for the queries of a log; vectors are kept in `folder`, so that a restart does not embed again."""

    def __init__(
        self, task: Task, catalogue: Sequence[Item], conversions: Sequence[Conversion], model: Path, folder: Path
    ) -> None:
        self._settings = task.teacher.retrieval
        self._catalogue = catalogue
        self._folder = folder
        self._model_path = model
        self._embedder: Embedder | None = None
        rows = {item.id: i for i, item in enumerate(catalogue)}
        self._bought: defaultdict[str, dict[int, int]] = defaultdict(dict)
        for c in conversions:
            bought = self._bought[c.query]
            bought[rows[c.item_id]] = bought.get(rows[c.item_id], 0) + c.count
        texts = [item_text(i) for i in catalogue]
        self._index = HybridIndex(texts, self._vectors("catalogue", texts), self._settings)

    def find(self, queries: Sequence[Example]) -> Iterator[Evidence]:
        """Evidence of every query, in order."""
        texts = [q.query for q in queries]
        vectors = self._vectors("queries", texts)
        known = [i for i, t in enumerate(texts) if t in self._bought]
        known_vectors = vectors[known]
        for at in range(0, len(texts), _BLOCK):
            block = slice(at, at + _BLOCK)
            hits = self._index.search(texts[block], vectors[block])
            near = self._neighbours(texts, vectors[block], known, known_vectors)
            for text, found, neighbours in zip(texts[block], hits, near, strict=True):
                neighbours = [(q, s) for q, s in neighbours if q != text][: self._settings.neighbours]
                yield Evidence(
                    tuple(found), self._bought.get(text, {}), tuple(neighbours), self._weighted(neighbours)
                )

    def _neighbours(
        self, texts: Sequence[str], vectors: Vectors, known: Sequence[int], known_vectors: Vectors
    ) -> list[list[tuple[str, float]]]:
        if not known or not self._settings.neighbours:
            return [[] for _ in vectors]
        similarity = vectors @ known_vectors.T
        best = top_rows(similarity, self._settings.neighbours + 1)
        values = np.take_along_axis(similarity, best, axis=1)
        return [
            [(texts[known[c]], round(float(v), 4)) for c, v in zip(cols, vals, strict=True)]
            for cols, vals in zip(best, values, strict=True)
        ]

    def _weighted(self, neighbours: Sequence[tuple[str, float]]) -> dict[int, float]:
        out: defaultdict[int, float] = defaultdict(float)
        for query, similarity in neighbours:
            for row, count in self._bought[query].items():
                out[row] += max(similarity, 0.0) ** 4 * min(count, 5)
        return dict(out)

    def _vectors(self, name: str, texts: Sequence[str]) -> Vectors:
        """Embeddings of texts, read from the folder when they are there for these very texts."""
        from task.files import sha256_json

        path = self._folder / f"{name}-{sha256_json(list(texts))[:16]}.npy"
        if path.exists():
            return np.asarray(np.load(path), dtype=np.float32)
        if self._embedder is None:
            self._embedder = Embedder(self._model_path)
        vectors = self._embedder.encode(texts)
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part.npy")
        np.save(partial, vectors)
        partial.rename(path)
        return vectors

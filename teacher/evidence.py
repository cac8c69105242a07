"""Evidence: what catalogue, conversions and neighbouring queries say about a query."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from task.files import sha256_json
from task.io import Conversion, Item
from task.progress import Progress, quiet
from task.spec import Task
from teacher.embed import Embedder, Vectors
from teacher.retrieval import Hit, HybridIndex, item_text, top_rows


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

    def only(self, kinds: frozenset[str]) -> Evidence:
        """Evidence of some kinds: `items`, `bought`, `neighbours`; the audit leaves one out at a time."""
        return Evidence(
            self.items if "items" in kinds else (), self.conversions if "bought" in kinds else {},
            self.neighbours if "neighbours" in kinds else (),
            self.neighbour_conversions if "neighbours" in kinds else {},
        )

    def to_json(self, catalogue: Sequence[Item], limit: int = 6) -> dict[str, Any]:
        """A short form, stored with the label."""
        bought = sorted(self.conversions.items(), key=lambda x: (-x[1], x[0]))[:limit]
        return {
            "items": [catalogue[h.row].id for h in self.items[:limit]],
            "conversions": {catalogue[r].id: n for r, n in bought},
            "neighbours": [q for q, _ in self.neighbours[:limit]],
        }


class EvidenceFinder:
    """Finds evidence for queries; the catalogue's vectors are kept in `folder`, so that a restart does not embed again.

    Args:
        model: Folder of the embedder.
    """

    def __init__(
        self, task: Task, catalogue: Sequence[Item], conversions: Sequence[Conversion], model: Path, folder: Path,
        progress: Progress = quiet,
    ) -> None:
        self._settings = task.teacher.retrieval
        self._catalogue = catalogue
        self._folder = folder
        self._model_path = model
        self._embedder: Embedder | None = None
        self._progress = progress
        rows = {item.id: i for i, item in enumerate(catalogue)}
        self._bought: defaultdict[str, dict[int, int]] = defaultdict(dict)
        for c in conversions:
            bought = self._bought[c.query]
            bought[rows[c.item_id]] = bought.get(rows[c.item_id], 0) + c.count
        self._known = sorted(self._bought)
        self._known_vectors = self.embed("queries with purchases", self._known)
        self._known_row = {q: i for i, q in enumerate(self._known)}
        texts = [item_text(i) for i in catalogue]
        self._index = HybridIndex(texts, self.embed("catalogue", texts), self._settings) if texts else None

    def vectors(self, queries: Sequence[str]) -> Vectors:
        """Embeddings of queries; those with purchases have theirs already."""
        rows = [self._known_row.get(q) for q in queries]
        missing = [q for q, r in zip(queries, rows, strict=True) if r is None]
        fresh = iter(self._encode(missing)) if missing else iter(())
        parts = [self._known_vectors[r] if r is not None else next(fresh) for r in rows]
        return np.stack(parts) if parts else self._known_vectors[:0]

    def find(self, queries: Sequence[str], vectors: Vectors) -> list[Evidence]:
        """Evidence of each query."""
        hits = self._index.search(queries, vectors) if self._index else [[] for _ in queries]
        near = self._neighbours(queries, vectors)
        return [
            Evidence(tuple(found), self._bought.get(q, {}), tuple(n), self._weighted(n))
            for q, found, n in zip(queries, hits, near, strict=True)
        ]

    def _neighbours(self, queries: Sequence[str], vectors: Vectors) -> list[list[tuple[str, float]]]:
        """Queries with purchases most like each query, itself left out."""
        wanted = self._settings.neighbours
        if not self._known or not wanted:
            return [[] for _ in queries]
        similarity = vectors @ self._known_vectors.T
        best = top_rows(similarity, wanted + 1)
        values = np.take_along_axis(similarity, best, axis=1)
        out = []
        for query, columns, row in zip(queries, best, values, strict=True):
            pairs = ((self._known[c], round(float(v), 4)) for c, v in zip(columns, row, strict=True))
            out.append([(q, s) for q, s in pairs if q != query][:wanted])
        return out

    def _weighted(self, neighbours: Sequence[tuple[str, float]]) -> dict[int, float]:
        out: defaultdict[int, float] = defaultdict(float)
        for query, similarity in neighbours:
            for row, count in self._bought[query].items():
                out[row] += max(similarity, 0.0) ** 4 * min(count, 5)
        return dict(out)

    def embed(self, name: str, texts: Sequence[str]) -> Vectors:
        """Embeddings of texts, read from the folder when they are there for these very texts."""
        path = self._folder / f"{name.replace(' ', '-')}-{sha256_json([str(self._model_path.name), *texts])[:16]}.npy"
        if path.exists():
            return np.asarray(np.load(path), dtype=np.float32)
        self._progress.begin(f"embedding {name}", len(texts))
        vectors = self._encode(texts, self._progress.advance)
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part.npy")
        np.save(partial, vectors)
        partial.rename(path)
        return vectors

    def _encode(self, texts: Sequence[str], progress: Callable[[int], None] = lambda _: None) -> Vectors:
        if self._embedder is None:
            self._embedder = Embedder(self._model_path)
        return self._embedder.encode(texts, progress=progress)

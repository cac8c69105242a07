"""The evidence for a query: catalogue items, purchases, and purchases after similar queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from task.readers import Item
from task.settings import Retrieval
from teacher.retrieval.embedder import Vectors
from teacher.retrieval.embedding_store import EmbeddingStore
from teacher.retrieval.hybrid_search import Hit, HybridIndex
from teacher.retrieval.index import Index


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence for one query.

    Attributes:
        items: Rows of the catalogue by hybrid search, best first.
        conversions: Catalogue row → purchases after this very query.
        neighbours: Similar queries of the log that led to purchases, with cosine similarity.
        neighbour_conversions: Catalogue row → purchases after the neighbours, weighted by similarity.
    """

    items: tuple[Hit, ...]
    conversions: Mapping[int, int]
    neighbours: tuple[tuple[str, float], ...]
    neighbour_conversions: Mapping[int, float]

    def only(self, kinds: frozenset[str]) -> Evidence:
        """The evidence of some kinds: `items`, `bought`, `neighbours`."""
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
    """Finds evidence for queries in an index.

    Args:
        store: Embeds the queries.
    """

    def __init__(self, settings: Retrieval, index: Index, store: EmbeddingStore) -> None:
        self._settings = settings
        self._index = index
        self._store = store
        self._hybrid = HybridIndex(index.folder / "items", settings)

    def vectors(self, queries: Sequence[str], name: str = "") -> Vectors:
        """Embeddings of queries; see `EmbeddingStore.vectors`."""
        return self._store.vectors(queries, name)

    def find(self, queries: Sequence[str], vectors: Vectors) -> list[Evidence]:
        """Evidence of each query."""
        hits = self._hybrid.search(queries, vectors)
        near = self._neighbours(queries, vectors)
        bought = self._index.purchases
        return [
            Evidence(
                tuple(found), bought.of(q), tuple((bought.queries[row], s) for row, s in n), self._weighted(n)
            )
            for q, found, n in zip(queries, hits, near, strict=True)
        ]

    def _neighbours(self, queries: Sequence[str], vectors: Vectors) -> list[list[tuple[int, float]]]:
        """The rows of the most similar queries with purchases, without the query itself."""
        wanted = self._settings.neighbours
        rows, similarity = self._index.bought.search(vectors, wanted + 1 if wanted else 0)
        own = self._index.purchases.queries
        return [
            [(r, round(s, 4)) for r, s in zip(near, values, strict=True) if own[r] != query][:wanted]
            for query, near, values in zip(queries, rows.tolist(), similarity.tolist(), strict=True)
        ]

    def _weighted(self, neighbours: Sequence[tuple[int, float]]) -> dict[int, float]:
        out: defaultdict[int, float] = defaultdict(float)
        for query, similarity in neighbours:
            for row, count in self._index.purchases.at(query).items():
                out[row] += max(similarity, 0.0) ** 4 * min(count, 5)
        return dict(out)

"""Nearest neighbours by cosine similarity: every vector is compared up to `EXACT_ROWS`, beyond that an index is asked.

docs/teacher.md has the measurements behind the choice of index and its settings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from task.progress import Progress, quiet
from teacher.embed import Vectors
from teacher.embeddings import Rows

EXACT_ROWS = 100_000
_GRAPH: Any = {"metric": "ip", "dtype": "f16", "connectivity": 16, "expansion_add": 128, "expansion_search": 256}
_ADDED_AT_ONCE = 10_000
_QUERIES_AT_ONCE = 128  # similarities of so many queries to every row are in memory together


class VectorIndex:
    """Rows of unit vectors in a folder, searched by dot product; memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self._ann: Any = None
        self._vectors: Vectors = np.empty((0, 0), np.float32)
        if (folder / "ann.usearch").exists():
            self._ann = _open_ann(folder / "ann.usearch")
        elif (folder / "vectors.npy").exists():
            self._vectors = np.load(folder / "vectors.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._vectors) if self._ann is None else len(self._ann)

    def search(self, queries: Vectors, count: int) -> tuple[Rows, Vectors]:
        """The `count` rows most like each query, best first, and their similarities; fewer where there are fewer."""
        count = min(count, len(self))
        if not count or not len(queries):
            return np.empty((len(queries), count), np.int64), np.empty((len(queries), count), np.float32)
        if self._ann is not None:
            found = self._ann.search(queries, count)
            return found.keys.astype(np.int64).reshape(-1, count), 1.0 - found.distances.reshape(-1, count)
        return exact(queries, self._vectors, count)


def exact(queries: Vectors, vectors: Vectors, count: int) -> tuple[Rows, Vectors]:
    """The `count` rows of `vectors` with the largest dot product with each query, largest first, and these."""
    import torch

    count = min(count, len(vectors))
    rows, values = [], []
    for at in range(0, len(queries), _QUERIES_AT_ONCE):
        similarity = queries[at : at + _QUERIES_AT_ONCE] @ vectors.T
        best = torch.topk(torch.from_numpy(similarity), count)  # several times as fast as NumPy's partition
        rows.append(best.indices.numpy())
        values.append(best.values.numpy())
    return np.concatenate(rows), np.concatenate(values)


def write_vectors(folder: Path, table: Vectors, rows: Rows, progress: Progress = quiet) -> None:
    """Index some rows of a table of vectors, shape (rows, dimensions), into a folder; nothing where there are none.

    Args:
        table: May be a mapped file: no more than a part is taken into memory where there are many rows.
        rows: Which of it, in the order in which they will be found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if len(rows) > EXACT_ROWS:
        _write_ann(folder / "ann.usearch", table, rows, progress)
    elif len(rows):
        np.save(folder / "vectors.npy", table[rows])


def _write_ann(path: Path, table: Vectors, rows: Rows, progress: Progress) -> None:
    """A graph of neighbours (HNSW, Malkov and Yashunin 2018) over half-precision vectors, in one file.

    One thread adds: usearch's threads overwrite each other's links, so that some rows are never found again, and
    other rows each time.
    """
    from usearch.index import Index

    index = Index(ndim=table.shape[1], **_GRAPH)
    progress.begin("indexing vectors", len(rows))
    for at in range(0, len(rows), _ADDED_AT_ONCE):
        part = rows[at : at + _ADDED_AT_ONCE]
        index.add(np.arange(at, at + len(part)), table[part], threads=1)
        progress.advance(len(part))
    index.save(str(path))


def _open_ann(path: Path) -> Any:
    from usearch.index import Index

    index = Index(ndim=int((Index.metadata(str(path)) or {})["dimensions"]), **_GRAPH)
    index.view(str(path))
    return index

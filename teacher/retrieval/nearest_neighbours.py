"""Exact nearest neighbours by cosine similarity, with a part of the vectors in memory at a time.

docs/benchmarks.md compares exact search with approximate indexes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from task.progress import Progress, quiet
from teacher.retrieval.embedder import Vectors
from teacher.retrieval.embedding_store import Rows

_QUERIES_AT_ONCE = 512  # each block of vectors is read from disk once for so many queries
_ROWS_AT_ONCE = 32_768  # rows whose similarities to the queries are in memory together


class VectorIndex:
    """Rows of unit vectors in a folder, searched by dot product; memory-mapped."""

    def __init__(self, folder: Path) -> None:
        path = folder / "vectors.npy"
        self._vectors: Vectors = np.load(path, mmap_mode="r") if path.exists() else np.empty((0, 0), np.float32)

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, queries: Vectors, count: int) -> tuple[Rows, Vectors]:
        """The rows most similar to each query, at most `count`, best first, and their similarities."""
        return exact(queries, among=self._vectors, count=count)


def exact(queries: Vectors, *, among: Vectors, count: int) -> tuple[Rows, Vectors]:
    """The `count` rows of `among` with the largest dot product with each query, largest first, and these products."""
    count = min(count, len(among))
    if not count or not len(queries):
        return np.empty((len(queries), count), np.int64), np.empty((len(queries), count), np.float32)
    found = [
        _best(queries[at : at + _QUERIES_AT_ONCE], among=among, count=count)
        for at in range(0, len(queries), _QUERIES_AT_ONCE)
    ]
    return np.concatenate([rows for rows, _ in found]), np.concatenate([values for _, values in found])


def _best(queries: Vectors, *, among: Vectors, count: int) -> tuple[Rows, Vectors]:
    """`exact` for one batch of queries: the best rows of each chunk, then the best of all chunks."""
    import torch

    rows, values = [], []
    for at in range(0, len(among), _ROWS_AT_ONCE):
        similarity = torch.from_numpy(queries @ among[at : at + _ROWS_AT_ONCE].T)
        best = torch.topk(similarity, min(count, similarity.shape[1]))  # several times faster than NumPy's partition
        rows.append(best.indices + at)
        values.append(best.values)
    candidates = torch.cat(rows, 1)
    last = torch.topk(torch.cat(values, 1), count)
    return candidates.gather(1, last.indices).numpy(), last.values.numpy()


def write_vectors(folder: Path, table: Vectors, rows: Rows, progress: Progress = quiet) -> None:
    """Write chosen rows of a table of vectors, shape (rows, dimensions), into a folder; no file if there are none.

    Args:
        table: May be a memory-mapped file; a part is in memory at a time.
        rows: The chosen rows, in the order of the written file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not len(rows):
        return
    shape = (len(rows), table.shape[1])
    out = np.lib.format.open_memmap(str(folder / "vectors.npy"), "w+", np.float32, shape)  # type: ignore[no-untyped-call]
    progress.begin("writing vectors", len(rows))
    for at in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[at : at + _ROWS_AT_ONCE]
        out[at : at + len(part)] = table[part]
        progress.advance(len(part))
    out.flush()

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
# The same vector gets another last digit elsewhere in a matrix product: rows that are closer than this to the last one
# that is wanted are candidates as well, and the similarities of all candidates are computed again, one by one.
_ROUNDING = 1e-5
_SPARE = 8  # candidates beyond those wanted; where they do not reach far enough, all rows are looked through


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
    """The `count` rows of `among` with the largest dot product with each query, largest first, and these products.

    Of rows with equal products the lower row comes first, at the end of the list too; neither the number of queries nor
    that of rows has an influence.
    """
    count = min(count, len(among))
    if not count or not len(queries):
        return np.empty((len(queries), count), np.int64), np.empty((len(queries), count), np.float32)
    found = [
        _best(queries[at : at + _QUERIES_AT_ONCE], among=among, count=count)
        for at in range(0, len(queries), _QUERIES_AT_ONCE)
    ]
    return np.concatenate([rows for rows, _ in found]), np.concatenate([values for _, values in found])


def _best(queries: Vectors, *, among: Vectors, count: int) -> tuple[Rows, Vectors]:
    """`exact` for one batch of queries: candidates of each chunk of rows, then the best of all candidates."""
    rows, values, more = [], [], [list[Rows]() for _ in queries]
    for at in range(0, len(among), _ROWS_AT_ONCE):
        near = _candidates(queries @ among[at : at + _ROWS_AT_ONCE].T, count, more, at)
        rows.append(near[0] + at)
        values.append(near[1])
    every, rough = np.concatenate(rows, axis=1), np.concatenate(values, axis=1)
    least = np.partition(rough, rough.shape[1] - count, axis=1)[:, -count] - _ROUNDING
    best = np.empty((len(queries), count), np.int64)
    products = np.empty((len(queries), count), np.float32)
    for i, query in enumerate(queries):
        found = np.unique(np.concatenate([every[i, rough[i] >= least[i]], *more[i]]))
        # One by one and in double precision, equal vectors have equal products, wherever they stand.
        product = (among[found] * query.astype(np.float64)).sum(axis=1).astype(np.float32)
        order = np.argsort(-product, kind="stable")[:count]
        best[i], products[i] = found[order], product[order]
    return best, products


def _candidates(similarity: Vectors, count: int, more: list[list[Rows]], first: int) -> tuple[Rows, Vectors]:
    """Rows of a chunk, counted from its beginning, that may be among the best, and their rough similarities.

    A query's further rows that are as near as the last one wanted, as copies of it are, go into `more`, as rows of the
    table, in which the chunk begins at row `first`.
    """
    import torch

    size = similarity.shape[1]
    table = torch.from_numpy(similarity)
    best = torch.topk(table, min(count + _SPARE, size))  # several times faster than NumPy's partition
    if best.values.shape[1] < size:
        least = best.values[:, count - 1] - _ROUNDING
        for i in (best.values[:, -1] >= least).nonzero()[:, 0].tolist():
            more[i].append((table[i] >= least[i]).nonzero()[:, 0].numpy() + first)
    return best.indices.numpy(), best.values.numpy()


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

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from teacher.retrieval import nearest_neighbours as module
from teacher.retrieval.embedder import Vectors
from teacher.retrieval.nearest_neighbours import VectorIndex, exact, write_vectors


def unit(rows: int, seed: int, centres: int = 50) -> Vectors:
    """Unit vectors in clusters, as texts have them."""
    random = np.random.default_rng(seed)
    middle = np.random.default_rng(7).normal(size=(centres, 32))
    table = middle[random.integers(0, centres, rows)] + 0.7 * random.normal(size=(rows, 32))
    return np.asarray(table / np.linalg.norm(table, axis=1, keepdims=True), np.float32)


def test_a_small_table_is_searched_in_full(tmp_path: Path) -> None:
    rows, queries = unit(500, 0), unit(300, 1)
    write_vectors(tmp_path, rows, np.arange(len(rows)))
    found, similarity = VectorIndex(tmp_path).search(queries, 10)
    assert np.array_equal(found, np.argsort(-(queries @ rows.T), axis=1)[:, :10])
    assert np.allclose(similarity, np.sort(queries @ rows.T, axis=1)[:, :-11:-1], atol=1e-6)


@pytest.mark.parametrize(("queries_at_once", "rows_at_once"), [(7, 64), (300, 33), (1, 500), (64, 4)])
def test_what_is_searched_in_parts_is_searched_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queries_at_once: int, rows_at_once: int
) -> None:
    """Also where a part has fewer rows than are wanted."""
    monkeypatch.setattr(module, "_QUERIES_AT_ONCE", queries_at_once)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", rows_at_once)
    rows, queries = unit(500, 0), unit(150, 1)
    order = np.random.default_rng(2).permutation(500)
    write_vectors(tmp_path, rows, order)
    found, similarity = VectorIndex(tmp_path).search(queries, 10)
    wanted = np.argsort(-(queries @ rows[order].T), axis=1)[:, :10]
    assert np.array_equal(found, wanted)
    assert np.allclose(similarity, np.take_along_axis(queries @ rows[order].T, wanted, 1), atol=1e-6)


@pytest.mark.parametrize("count", [0, 3, 9])
def test_there_are_never_more_rows_than_there_are(tmp_path: Path, count: int) -> None:
    write_vectors(tmp_path, unit(6, 0), np.array([5, 0, 2]))
    rows, similarity = VectorIndex(tmp_path).search(unit(4, 1), count)
    assert rows.shape == similarity.shape == (4, min(count, 3))
    assert np.array_equal(rows, exact(unit(4, 1), among=unit(6, 0)[[5, 0, 2]], count=count)[0] if count else rows)
    empty = VectorIndex(tmp_path / "nothing")
    assert empty.search(unit(4, 1), count)[0].shape == (4, 0)

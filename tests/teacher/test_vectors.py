from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from task.files import sha256_file
from teacher import vectors as module
from teacher.embed import Vectors
from teacher.vectors import VectorIndex, exact, write_vectors


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


def test_a_large_table_is_searched_by_an_index_that_finds_nearly_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXACT_ROWS", 1_000)
    rows, queries = unit(5_000, 0), unit(200, 1)
    write_vectors(tmp_path, rows, np.arange(len(rows)))
    index = VectorIndex(tmp_path)
    found, similarity = index.search(queries, 10)
    truth, best = exact(queries, rows, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), truth.tolist(), strict=True)])
    assert len(index) == 5_000
    assert recall >= 0.98
    assert np.allclose(similarity[:, 0], best[:, 0], atol=2e-2)


def test_a_large_table_loses_no_row_and_is_indexed_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXACT_ROWS", 1_000)
    rows = unit(3_000, 0, centres=3_000)
    for name in "ab":
        write_vectors(tmp_path / name, rows, np.arange(len(rows)))
    found = VectorIndex(tmp_path / "a").search(rows, 1)[0][:, 0]
    assert np.array_equal(found, np.arange(3_000))
    assert sha256_file(tmp_path / "a" / "ann.usearch") == sha256_file(tmp_path / "b" / "ann.usearch")


@pytest.mark.parametrize("count", [0, 3, 9])
def test_there_are_never_more_rows_than_there_are(tmp_path: Path, count: int) -> None:
    write_vectors(tmp_path, unit(6, 0), np.array([5, 0, 2]))
    rows, similarity = VectorIndex(tmp_path).search(unit(4, 1), count)
    assert rows.shape == similarity.shape == (4, min(count, 3))
    assert np.array_equal(rows, exact(unit(4, 1), unit(6, 0)[[5, 0, 2]], count)[0] if count else rows)
    empty = VectorIndex(tmp_path / "nothing")
    assert empty.search(unit(4, 1), count)[0].shape == (4, 0)

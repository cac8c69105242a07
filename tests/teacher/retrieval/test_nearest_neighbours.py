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


@pytest.mark.parametrize("count", [1, 5, 30, 200])
@pytest.mark.parametrize(("queries_at_once", "rows_at_once"), [(512, 32_768), (512, 64), (3, 33)])
def test_of_equal_similarities_the_lower_row_comes_first_and_is_never_left_out(
    monkeypatch: pytest.MonkeyPatch, count: int, queries_at_once: int, rows_at_once: int
) -> None:
    """Ties within the list, at its end, and more of them than any spare candidates hold; in parts as well."""
    monkeypatch.setattr(module, "_QUERIES_AT_ONCE", queries_at_once)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", rows_at_once)
    different = unit(20, 0)
    which = np.random.default_rng(3).integers(0, 20, 400)  # each row about twenty times
    queries = unit(9, 1)
    rows, similarity = exact(queries, among=different[which], count=count)
    nearest = np.argsort(-(queries @ different.T), axis=1)
    for found, order in zip(rows, nearest, strict=True):
        assert found.tolist() == [row for i in order for row in np.flatnonzero(which == i)][:count]
    assert np.all(np.diff(similarity, axis=1) <= 0)


def test_the_similarity_of_a_pair_depends_on_nothing_else() -> None:
    """A matrix product rounds a pair differently in another batch or at another place; a ranking must not."""
    rows, queries = unit(301, 0), unit(65, 1)
    whole = exact(queries, among=rows, count=301)
    for at in (0, 17, 64):
        alone = exact(queries[at : at + 1], among=rows[:40], count=40)
        place = np.argsort(whole[0][at])  # of each row in the list
        assert np.array_equal(alone[1][0], whole[1][at][place][alone[0][0]])

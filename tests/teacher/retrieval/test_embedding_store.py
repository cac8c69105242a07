from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from teacher.retrieval import embedding_store as embeddings
from teacher.retrieval.embedder import Embedder
from teacher.retrieval.embedding_store import EmbeddingStore
from tests.conftest import make_tiny_bert

TEXTS = ["oat milk", "verdant machine", "loo roll", "oat milk 1l", "a", "tea", "green tea", "vegan cheese"]


class Counting(Embedder):
    """Records the texts that it embeds."""

    asked: ClassVar[list[str]] = []

    def encode(self, texts, *args, **kwargs):  # type: ignore[no-untyped-def]
        Counting.asked += texts
        return super().encode(texts, *args, **kwargs)


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    Counting.asked = []
    monkeypatch.setattr(embeddings, "Embedder", Counting)
    monkeypatch.setattr(embeddings, "_CHUNK", 3)


def test_a_text_is_embedded_once_whoever_asks_and_however_often(tmp_path: Path, embedder_folder: Path) -> None:
    truth = Embedder(embedder_folder).encode(TEXTS)
    store = EmbeddingStore(tmp_path, model=embedder_folder)
    assert np.allclose(store.vectors(TEXTS[:5] + TEXTS[:2]), truth[[0, 1, 2, 3, 4, 0, 1]], atol=1e-6)
    again = EmbeddingStore(tmp_path, model=embedder_folder)
    assert np.allclose(again.vectors(list(reversed(TEXTS))), truth[::-1], atol=1e-6)
    assert sorted(Counting.asked) == sorted(TEXTS)
    assert len(again) == len(TEXTS)
    assert store.vectors([]).shape == (0, 32)


def test_a_store_opened_before_sees_what_another_wrote_since(tmp_path: Path, embedder_folder: Path) -> None:
    first, second = (EmbeddingStore(tmp_path, model=embedder_folder) for _ in range(2))
    assert np.array_equal(first.vectors(TEXTS), second.vectors(TEXTS))
    assert len(Counting.asked) == len(TEXTS)


def test_other_weights_are_another_store(tmp_path: Path, embedder_folder: Path, tokenizer_folder: Path) -> None:
    other = make_tiny_bert(tmp_path / "bert", tokenizer_folder, seed=1)
    a, b = EmbeddingStore(tmp_path, model=embedder_folder), EmbeddingStore(tmp_path, model=other)
    assert not np.allclose(a.vectors(TEXTS), b.vectors(TEXTS), atol=1e-2)


def test_a_shared_store_is_read_and_never_written(tmp_path: Path, embedder_folder: Path) -> None:
    truth = Embedder(embedder_folder).encode(TEXTS)
    nothing = EmbeddingStore(tmp_path / "none", model=embedder_folder, shared=True)
    assert np.allclose(nothing.vectors(TEXTS), truth, atol=1e-6)
    assert not (tmp_path / "none").exists()
    EmbeddingStore(tmp_path, model=embedder_folder).vectors(TEXTS[:4])
    Counting.asked = []
    shared = EmbeddingStore(tmp_path, model=embedder_folder, shared=True)
    assert np.allclose(shared.vectors(TEXTS), truth, atol=1e-6)
    assert Counting.asked == TEXTS[4:]
    assert len(EmbeddingStore(tmp_path, model=embedder_folder)) == 4


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lost=st.integers(0, 8 * 32 * 4), keys_lost=st.integers(0, 8 * 8))
def test_a_torn_tail_costs_the_torn_rows_only(
    tmp_path_factory: pytest.TempPathFactory, embedder_folder: Path, lost: int, keys_lost: int
) -> None:
    folder = tmp_path_factory.mktemp("store")
    whole = np.array(EmbeddingStore(folder, model=embedder_folder).vectors(TEXTS))
    for pattern, cut in (("*/vectors.f32", lost), ("*/keys.u64", keys_lost)):
        (path,) = folder.glob(pattern)
        path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    Counting.asked = []
    assert np.allclose(EmbeddingStore(folder, model=embedder_folder).vectors(TEXTS), whole, atol=1e-6)
    assert len(Counting.asked) == max(-(-lost // (32 * 4)), -(-keys_lost // 8))

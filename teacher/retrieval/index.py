"""The search index of a job: built once into a folder, memory-mapped by every process that searches.

FOLDER/embeddings-MODEL/     all texts that were ever embedded (`embedding_store`)
FOLDER/index-CONTENT/        catalogue, BM25, vectors, purchases; named by a hash of catalogue and purchases
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from task.files import sha256_file, sha256_json
from task.progress import Progress, quiet
from task.readers import Conversion, Item
from teacher.retrieval.catalogue_table import ItemTable, write_items
from teacher.retrieval.embedding_store import EmbeddingStore
from teacher.retrieval.hybrid_search import item_text, write_hybrid
from teacher.retrieval.nearest_neighbours import VectorIndex, write_vectors
from teacher.retrieval.purchases import Purchases, write_purchases

_VERSION = 2


def build_index(
    catalogue: Sequence[Item], conversions: Sequence[Conversion], *, model: Path, folder: Path,
    progress: Progress = quiet,
) -> Path:
    """Build the index of a catalogue and its purchases unless it exists; indexes of other content are deleted.

    Args:
        model: Folder of the embedder.
        folder: For embeddings and index. Stored embeddings are used again, so a small change is built quickly.

    Returns:
        The index's own folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        staged = folder / ".index.tmp"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        write_items(staged / "catalogue.arrow", catalogue)
        bought = write_purchases(staged / "purchases", catalogue, conversions)
        content = [sha256_file(p) for p in sorted(staged.rglob("*")) if p.is_file()]
        store = EmbeddingStore(folder, model=model, progress=progress)
        target = folder / f"index-{sha256_json([_VERSION, store.fingerprint, content])[:16]}"
        if target.exists():
            shutil.rmtree(staged)
            return target
        rows = store.rows(bought, "queries with purchases")
        write_vectors(staged / "purchases", store.table, rows, progress)
        texts = [item_text(i) for i in catalogue]
        rows = store.rows(texts, "catalogue")
        write_hybrid(staged / "items", texts, store.table, rows, progress)
        for old in folder.glob("index-*"):
            shutil.rmtree(old)
        staged.rename(target)
        return target


class Index:
    """An index made by `build_index`.

    Attributes:
        items: The catalogue.
        purchases: Purchases by query.
        bought: Vectors of the queries with purchases, in the order of `purchases`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.items = ItemTable(folder / "catalogue.arrow")
        self.purchases = Purchases(folder / "purchases")
        self.bought = VectorIndex(folder / "purchases")

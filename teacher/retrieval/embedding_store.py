"""Embeddings on disk: a text is embedded once, whichever table it is in, and found by its hash.

Two files are appended to, vectors first and then their keys; a row is valid if both files have it completely. A kill
therefore loses only the chunk that was being embedded, and a changed catalogue costs only its new texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from task.files import read_json, sha256_file, sha256_json, write_json
from task.progress import Progress, quiet
from teacher.retrieval.embedder import Embedder, Vectors

Rows = npt.NDArray[np.int64]
_CHUNK = 8_192
_KEY_BYTES = 8  # among ten million texts two share a key with probability 1 in 400,000


class EmbeddingStore:
    """The embeddings of one model under a folder.

    Args:
        model: Folder of the embedder; each set of weights has its own store.
        shared: Read-only; missing texts are embedded but not stored. For workers beside the process that writes.
    """

    def __init__(self, folder: Path, *, model: Path, progress: Progress = quiet, shared: bool = False) -> None:
        self._model, self._progress, self._shared = model, progress, shared
        self.fingerprint = fingerprint(model)
        self._folder = folder / f"embeddings-{self.fingerprint[:12]}"
        self._embedder: Embedder | None = None
        self._dimensions = 0
        self._keys = np.empty(0, np.uint64)  # sorted
        self._at = np.empty(0, np.int64)  # the row of each
        self._vectors: Vectors = np.empty((0, 0), np.float32)
        self._read()

    def __len__(self) -> int:
        return len(self._keys)

    def vectors(self, texts: Sequence[str], name: str = "") -> Vectors:
        """Embeddings of texts, shape (texts, dimensions); new texts are embedded and stored.

        Args:
            name: Of the texts in the progress display; empty shows nothing.
        """
        if self._shared:
            return self._without_storing(texts)
        rows = self.rows(texts, name)
        return np.asarray(self._vectors[rows]) if len(rows) else np.empty((0, self._dimensions), np.float32)

    def rows(self, texts: Sequence[str], name: str = "") -> Rows:
        """Rows of `table` with the texts' embeddings; new texts are embedded and stored."""
        keys = _keys(texts)
        if (self._find(keys) < 0).any():
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / "lock"):
                self._read()  # another process may have added rows
                new, first = np.unique(keys, return_index=True)
                first = np.sort(first[self._find(new) < 0])
                if len(first):
                    self._add([texts[i] for i in first], keys[first], name)
        return self._find(keys)

    @property
    def table(self) -> Vectors:
        """All stored embeddings, memory-mapped."""
        return self._vectors

    def _find(self, keys: npt.NDArray[np.uint64]) -> Rows:
        """The row of each key, or -1."""
        if not len(self._keys):
            return np.full(len(keys), -1, np.int64)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[place] == keys, self._at[place], -1)

    def _add(self, texts: Sequence[str], keys: npt.NDArray[np.uint64], name: str) -> None:
        if name:
            self._progress.begin(f"embedding {name}", len(texts))
        advance = self._progress.advance if name else lambda _: None
        held = len(self)
        for at in range(0, len(texts), _CHUNK):
            part = slice(at, at + _CHUNK)
            vectors = self._encoder().encode(texts[part], progress=advance)
            if not self._dimensions:
                self._dimensions = vectors.shape[1]
                write_json(self._folder / "store.json", {"model": self._model.name, "dimensions": self._dimensions})
            _append(self._folder / "vectors.f32", held, vectors)
            _append(self._folder / "keys.u64", held, keys[part])
            held += len(vectors)
        self._read()

    def _read(self) -> None:
        """Map the rows that were added since the last call."""
        if not (self._folder / "store.json").exists():
            return
        self._dimensions = int(read_json(self._folder / "store.json")["dimensions"])
        sizes = [_size(self._folder / "vectors.f32") // (4 * self._dimensions), _size(self._folder / "keys.u64") // 8]
        known, held = len(self), min(sizes)
        if held > known:
            keys = np.fromfile(self._folder / "keys.u64", np.uint64, held - known, offset=8 * known)
            order = np.argsort(keys, kind="stable")
            place = np.searchsorted(self._keys, keys[order])
            self._keys = np.insert(self._keys, place, keys[order])
            self._at = np.insert(self._at, place, known + order)
            self._vectors = np.memmap(self._folder / "vectors.f32", np.float32, "r", shape=(held, self._dimensions))

    def _without_storing(self, texts: Sequence[str]) -> Vectors:
        rows = self._find(_keys(texts))
        missing = np.flatnonzero(rows < 0)
        if not len(missing):
            return np.asarray(self._vectors[rows])
        fresh = self._encoder().encode([texts[i] for i in missing])
        out = np.empty((len(texts), fresh.shape[1]), np.float32)
        out[missing] = fresh
        known = np.flatnonzero(rows >= 0)
        if len(known):
            out[known] = self._vectors[rows[known]]
        return out

    def _encoder(self) -> Embedder:
        if self._embedder is None:
            self._embedder = Embedder(self._model)
        return self._embedder


def fingerprint(model: Path) -> str:
    """SHA-256 over a model folder's weights and tokenizer."""
    files = [*sorted(model.glob("*.safetensors")), *sorted(model.glob("tokenizer.json"))]
    return sha256_json({p.name: sha256_file(p) for p in files})


def _keys(texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(t.encode(), digest_size=_KEY_BYTES).digest() for t in texts)
    return np.frombuffer(digests, np.uint64)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _append(path: Path, rows: int, values: npt.NDArray[np.generic]) -> None:
    """Write rows after the first `rows` complete ones, over what a killed writer left behind them."""
    width = values.nbytes // len(values)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(rows * width)
        file.seek(rows * width)
        file.write(values.tobytes())
        file.flush()

"""The head cache: labels of the most frequent queries, found without a model.

Exact match on the normalised text, never similarity: reversed meanings are close in every embedding. The files are
memory-mapped and read-only, so worker processes share them: `keys.npy` holds sorted 64-bit hashes, `offsets.npy`
where each value begins in `values.bin`. The value repeats its text, so a hash collision is a miss, not an answer.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from task.labels import Example, Label, Labelling
from task.normalize import normaliser
from task.segment import units


class HeadCache:
    """An opened cache."""

    def __init__(self, folder: Path, version: str) -> None:
        self._normalise = normaliser(version)
        self._keys = np.load(folder / "keys.npy", mmap_mode="r")
        self._offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        size = (folder / "values.bin").stat().st_size
        self._values = np.memmap(folder / "values.bin", mode="r") if size else np.zeros(0, dtype=np.uint8)
        if len(self._offsets) != len(self._keys) + 1 or int(self._offsets[-1]) != size:
            raise ValueError(f"{folder}: the cache's files do not fit together")

    @classmethod
    def build(cls, folder: Path, rows: Iterable[Example], version: str) -> None:
        """Write a cache; of two rows with the same normalised text the first stays."""
        normalise = normaliser(version)
        entries: dict[int, bytes] = {}
        for row in rows:
            text = normalise(row.query)
            value = {"text": text, "query": row.query, "labels": [x.to_json() for x in row.labels]}
            entries.setdefault(_hash(text), json.dumps(value, ensure_ascii=False).encode())
        keys = np.array(sorted(entries), dtype=np.uint64)
        values = [entries[int(k)] for k in keys]
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "keys.npy", keys)
        np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum([len(v) for v in values])]).astype(np.uint64))
        (folder / "values.bin").write_bytes(b"".join(values))

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, query: str) -> Labelling | None:
        """The labels of a query, with spans in the text as asked, or None."""
        text = self._normalise(query)
        at = int(np.searchsorted(self._keys, np.uint64(_hash(text))))
        if at == len(self._keys) or int(self._keys[at]) != _hash(text):
            return None
        value = json.loads(bytes(self._values[int(self._offsets[at]) : int(self._offsets[at + 1])]))
        if value["text"] != text:
            return None
        labels = tuple(Label.from_json(x) for x in value["labels"])
        return labels if value["query"] == query else _moved(labels, value["query"], query)


def cached_queries(folder: Path) -> list[str]:
    """The queries that a cache holds, as they were put in."""
    offsets = np.load(folder / "offsets.npy")
    values = (folder / "values.bin").read_bytes()
    return [str(json.loads(values[int(a) : int(b)])["query"]) for a, b in itertools.pairwise(offsets)]


def _moved(labels: Labelling, source: str, target: str) -> Labelling | None:
    """Labels of `source` with spans in `target`, which normalises to the same text; None where words do not line up."""
    old, new = units(source, "whitespace"), units(target, "whitespace")
    if len(old) != len(new):
        return None
    starts = {s: new[i][0] for i, (s, _) in enumerate(old)}
    ends = {e: new[i][1] for i, (_, e) in enumerate(old)}
    out = []
    for label in labels:
        if label.start is None or label.end is None:
            out.append(label)
        elif label.start in starts and label.end in ends:
            start, end = starts[label.start], ends[label.end]
            out.append(Label(label.role, target[start:end], start, end, label.confidence))
        else:
            return None
    return tuple(out)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

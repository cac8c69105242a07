"""The head cache: labels of the most frequent queries, found without a model.

Exact match on the normalised text, never similarity: queries with opposite meanings are close in every embedding.
Designed for tens of millions of queries: it is written row by row, and memory-mapped when read, so that all worker
processes share it.

cache.json   format, number of rows, normaliser, and the key of task, codec and model that the labels belong to
keys.bin     sorted 64-bit hashes of the normalised texts
starts.bin   for each key, where its record begins
values.bin   the records: a header with lengths and a CRC-32, the normalised text, the query, its labels as JSON

A record repeats its text, so a hash collision is a miss, not a wrong answer; a record damaged on disk is a miss too.
Hashes are uniformly distributed, so a look-up interpolates the position and searches a few pages around it.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import struct
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from task.errors import InputError
from task.files import read_json, write_json
from task.labels import Example, Label, Labelling
from task.normalize import normaliser
from task.segmentation import units

FORMAT = 2
_HEADER = struct.Struct("<IIII")  # CRC-32 of what follows it, bytes of text, of query, of labels
_SAME = 0xFFFFFFFF  # the query is its own normalised text


@dataclass(frozen=True, slots=True)
class Hit:
    """A record of the cache.

    Attributes:
        query: The query as it was before normalisation.
        labels: Its labels, JSON in UTF-8; spans are in `query`.
    """

    query: str
    labels: bytes

    def decoded(self) -> Labelling:
        """The labels, with spans in `query`."""
        return tuple(Label.from_json(x) for x in json.loads(self.labels))


class HeadCache:
    """An opened cache; reading it from several threads or processes is safe."""

    def __init__(self, folder: Path, *, mapped: bool = True) -> None:
        """Open a cache.

        Args:
            mapped: Map its files, so that processes share their memory; else read them, for a process that must not end
                where another one truncates a mapped file (SIGBUS).

        Raises:
            InputError: No cache, another format, or files of inconsistent sizes.
        """
        if not (folder / "cache.json").exists():
            raise InputError("no head cache here", file=folder, fix="`limbeck bundle TASK` makes one")
        about = read_json(folder / "cache.json")
        if about.get("format") != FORMAT:
            raise InputError(
                "a head cache of another format", file=folder, found=about.get("format"), expected=str(FORMAT),
                fix="Make the bundle again with `limbeck bundle TASK`",
            )
        self.key: str = about["key"]
        self._rows: int = about["rows"]
        self.normalise = normaliser(about["normaliser"])
        content = _mapped if mapped else _read
        self._keys, self._starts = (content(folder / name).cast("Q") for name in ("keys.bin", "starts.bin"))
        self._values = content(folder / "values.bin")
        if not (len(self._keys) == len(self._starts) == self._rows and len(self._values) == about["bytes"]):
            raise InputError(
                "the sizes of the head cache's files are inconsistent", file=folder,
                found=f"{len(self._keys)} keys, {len(self._starts)} positions, {len(self._values)} bytes",
                expected=f"{self._rows} keys and positions, {about['bytes']} bytes",
                fix="Make or fetch the bundle again",
            )
        self._window = 8 + 4 * math.isqrt(self._rows)

    def __len__(self) -> int:
        return self._rows

    def get(self, query: str) -> Labelling | None:
        """The labels of a query, with spans in the text as asked, or None."""
        hit = self.find(self.normalise(query))
        if hit is None:
            return None
        return hit.decoded() if hit.query == query else moved(hit.decoded(), source=hit.query, target=query)

    def find(self, text: str) -> Hit | None:
        """The record of a normalised text, None where there is none."""
        raw = text.encode()
        at = self._position(text_hash(raw))
        return None if at is None else self._record(self._starts[at], raw, text)

    def hits(self) -> Iterator[Hit]:
        """Every undamaged record, in the order of the hashes."""
        for start in self._starts:
            hit = self._record(start, None, None)
            if hit is not None:
                yield hit

    def queries(self) -> Iterator[str]:
        """Every query, in the order of the hashes."""
        return (hit.query for hit in self.hits())

    def _position(self, key: int) -> int | None:
        guess = (key * self._rows) >> 64
        low, high = max(0, guess - self._window), min(self._rows, guess + self._window)
        at = bisect_left(self._keys, key, low, high)
        if at in (low, high):  # the key may lie outside the window
            at = bisect_left(self._keys, key)
        return at if at < self._rows and self._keys[at] == key else None

    def _record(self, start: int, raw: bytes | None, text: str | None) -> Hit | None:
        """The record at `start`, if it is undamaged and, where a text is given, of that text."""
        begin = start + _HEADER.size
        if begin > len(self._values):
            return None
        crc, text_size, query_size, labels_size = _HEADER.unpack_from(self._values, start)
        same = query_size == _SAME
        middle = begin + text_size
        end = middle + (0 if same else query_size) + labels_size
        if end > len(self._values):
            return None
        payload = bytes(self._values[begin:end])
        if (raw is not None and payload[:text_size] != raw) or zlib.crc32(payload) != crc:
            return None
        labels = payload[len(payload) - labels_size :]
        query = payload[: text_size] if same else payload[text_size : text_size + query_size]
        return Hit(text if same and text is not None else query.decode(), labels)


def build(
    folder: Path, rows: Iterable[Example], *, normaliser_name: str, key: str,
    done: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a cache, a row at a time; of two rows with the same normalised text the first is kept.

    Memory is 16 bytes a row and, for sorting, as much again.

    Args:
        normaliser_name: As in `task.normalize`.
        key: Of the task, codec and model that the labels belong to; becomes `HeadCache.key`.
        done: Called with the number of rows as they are written.
    """
    normalise = normaliser(normaliser_name)
    folder.mkdir(parents=True, exist_ok=True)
    keys, starts = array("Q"), array("Q")
    with (folder / "values.bin").open("wb", buffering=1 << 20) as file:
        at = 0
        for row in rows:
            text = normalise(row.query)
            keys.append(text_hash(text.encode()))
            starts.append(at)
            at += _write(file, text, row)
            done(1)
    found = np.frombuffer(keys, dtype=np.uint64)
    order = np.argsort(found, kind="stable")
    if len(order):
        ordered = found[order]
        order = order[np.r_[True, ordered[1:] != ordered[:-1]]]
    found[order].tofile(folder / "keys.bin")
    np.frombuffer(starts, dtype=np.uint64)[order].tofile(folder / "starts.bin")
    write_json(folder / "cache.json", {
        "format": FORMAT, "rows": len(order), "normaliser": normaliser_name, "key": key, "bytes": at,
    })


def text_hash(raw: bytes) -> int:
    """64-bit hash of a normalised text in UTF-8."""
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def moved(labels: Labelling, *, source: str, target: str) -> Labelling | None:
    """Labels of `source` with spans in `target`, which normalises to the same text; None where words do not align."""
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


def encoded(labels: Labelling) -> bytes:
    """Labels as the gateway sends them: JSON in UTF-8."""
    rows: list[dict[str, Any]] = [{
        "role": x.role, "text": x.text, "start": x.start, "end": x.end,
        "confidence": None if x.confidence is None else round(x.confidence, 6),
    } for x in labels]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()


def _write(file: BinaryIO, text: str, row: Example) -> int:
    raw, query, labels = text.encode(), row.query.encode(), encoded(row.labels)
    same = raw == query
    payload = raw + (b"" if same else query) + labels
    header = _HEADER.pack(zlib.crc32(payload), len(raw), _SAME if same else len(query), len(labels))
    return file.write(header) + file.write(payload)


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        if path.stat().st_size == 0:  # an empty file cannot be mapped
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read(path: Path) -> memoryview:
    return memoryview(path.read_bytes())

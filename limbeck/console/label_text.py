"""Finding a text in the queries of a block: by pairs of bytes, then in the queries that have all of its pairs.

A text of one or two bytes is found without reading a query. UTF-8 has no character inside another one, so that what is
found as bytes is found as characters; the byte that ends each query (`END`) is none of UTF-8's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]

END: Final = b"\xff"
# Sorted pairs (first byte × 256 + second) that the folded queries have, and of each the rows, one after the other.
PAIRS: Final[Mapping[str, str]] = {"pair": "<u2", "pair_at": "<u4", "pair_of": "<u2"}
_FEW: Final = 1_024  # queries that are cheaper to look at singly than all bytes of a block together


class TextColumns(Protocol):
    """A block of which a part of a column can be read, and a column as bytes."""

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A column."""

    def part(self, name: str, start: int, end: int) -> NDArray[Any]:
        """Some entries of a column."""

    def raw(self, name: str) -> bytes:
        """The bytes of a column."""


def texts_as_bytes(texts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """All texts, each with `END` after it, and where each begins; one more for where the last one ends."""
    parts = [t.encode() + END for t in texts]
    at = np.cumsum([0, *(len(p) for p in parts)]).astype("<u4")
    return np.frombuffer(b"".join(parts), "u1"), at


def pairs_of(data: NDArray[np.uint8], at: NDArray[np.uint32]) -> dict[str, NDArray[Any]]:
    """The columns `PAIRS` of texts."""
    row = np.repeat(np.arange(len(at) - 1, dtype=np.uint64), np.diff(at))
    first, second = data[:-1].astype(np.uint64), data[1:].astype(np.uint64)
    inside = data[:-1] != END[0]
    found = np.unique(((first << np.uint64(24)) | (second << np.uint64(16)) | row[:-1])[inside])
    pair, starts = np.unique(found >> np.uint64(16), return_index=True)
    return {
        "pair": pair.astype("<u2"), "pair_at": np.append(starts, len(found)).astype("<u4"),
        "pair_of": (found & np.uint64(0xFFFF)).astype("<u2"),
    }


def containing(block: TextColumns, among: Bools, folded: str) -> Bools:
    """The rows, of some, whose folded query has a folded text in it."""
    text = folded.encode()
    pair, pair_at = block["pair"], block["pair_at"]

    def having(low: int, high: int) -> Bools:
        first, last = pair_at[np.searchsorted(pair, np.array([low, high]))].tolist()
        out = np.zeros(len(among), dtype=np.bool_)
        if first < last:
            out[block.part("pair_of", first, last)] = True
        return out

    if len(text) == 1:
        return among & having(text[0] << 8, (text[0] + 1) << 8)
    out = among
    for first, second in set(pairwise(text)):
        number = (first << 8) | second
        out = out & having(number, number + 1)
        if not out.any():
            return out
    return out if len(text) == 2 else _verified(block, out, text)


def _verified(block: TextColumns, candidates: Bools, text: bytes) -> Bools:
    """Those of some rows whose folded query has a text in it; all of them have its pairs."""
    name = "folded" if len(block["folded_at"]) > 1 else "query"
    at, rows = block[f"{name}_at"], np.flatnonzero(candidates)
    data = block.raw(name)
    if len(rows) > _FEW:
        return candidates & _scanned(np.frombuffer(data, "u1"), at[:-1].astype(np.intp), np.frombuffer(text, "u1"))
    out = np.zeros(len(candidates), dtype=np.bool_)
    out[[row for row, start, end in zip(rows.tolist(), at[rows].tolist(), at[rows + 1].tolist(), strict=True)
         if data.find(text, start, end) >= 0]] = True
    return out


def _scanned(data: NDArray[np.uint8], starts: NDArray[np.intp], text: NDArray[np.uint8]) -> Bools:
    """Which texts have another one in them, by comparing all bytes."""
    hits = np.zeros(len(data), dtype=np.bool_)
    found = hits[: max(0, len(data) - len(text) + 1)]
    np.equal(data[: len(found)], text[0], out=found)
    for i in range(1, len(text)):
        found &= data[i : len(found) + i] == text[i]
    return np.bitwise_or.reduceat(hits.view("u1"), starts).view(np.bool_)

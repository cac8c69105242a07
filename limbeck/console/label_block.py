"""A block of the label index: up to `BLOCK` rows as columns, sorted by folded query.

A column is an array with an entry per row (`ROW`), or per label or reason, sorted by role, value and row (`FACET`), or
the bytes of all texts (`TEXTS`) and the pairs that they have (`label_text`). Rows are only ever marked as gone; what a
block holds does not change otherwise, apart from the student's predictions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limbeck.console.label_filter import fold
from limbeck.console.label_text import PAIRS, Bools, pairs_of, texts_as_bytes

Columns = Mapping[str, NDArray[Any]]
Longs = NDArray[np.int64]

# With 65,536 rows, arrays are so large that the allocator returns them to the system each time: twice as slow.
BLOCK: Final = 16_384
ROW: Final[Mapping[str, str]] = {
    "alive": "?", "rowid": "<i8", "hash": "<i8", "count": "<i8", "confidence": "<f8", "status": "u1", "digest": "<i8",
    "updated": "<f8", "student": "u1",
}
FACET: Final[Mapping[str, str]] = {"of": "<u2", "role": "<u2", "value": "<u4"}
TEXTS: Final[Mapping[str, str]] = {"query": "u1", "query_at": "<u4", "folded": "u1", "folded_at": "<u4"}
TYPES: Final[Mapping[str, str]] = {**ROW, **FACET, **TEXTS, **PAIRS}
UNKNOWN, AGREES, DISAGREES = 0, 1, 2  # the column `student`


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the ledger as it is indexed.

    Attributes:
        status: Its place in `STATUSES`.
        digest: Of what the student's labels are compared with.
        student: Whether the student's labels are the same.
        facets: Role and value of each label, and each reason, by their numbers; a pair may come twice.
    """

    rowid: int
    query: str
    count: int
    confidence: float
    status: int
    digest: int
    updated: float
    student: int
    facets: Sequence[tuple[int, int]]


def hash_of(text: str) -> int:
    """A signed 64-bit hash that is the same in every process; two of a million texts share one in 4 of 10⁸ cases."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def block_of(entries: Iterable[Entry]) -> dict[str, NDArray[Any]]:
    """The columns of at most `BLOCK` rows."""
    rows = sorted(((fold(e.query), e) for e in entries), key=lambda x: (x[0], x[1].query))
    found = [e for _, e in rows]
    facets = sorted((*facet, at) for at, e in enumerate(found) for facet in e.facets)
    values = {
        "alive": [True] * len(found), "rowid": [e.rowid for e in found], "hash": [hash_of(e.query) for e in found],
        "count": [e.count for e in found], "confidence": [e.confidence for e in found],
        "status": [e.status for e in found], "digest": [e.digest for e in found],
        "updated": [e.updated for e in found], "student": [e.student for e in found],
        "role": [x[0] for x in facets], "value": [x[1] for x in facets], "of": [x[2] for x in facets],
    }
    return {**{k: np.array(v, TYPES[k]) for k, v in values.items()}, **_texts([e.query for e in found])}


def joined(blocks: Sequence[Columns]) -> dict[str, NDArray[Any]]:
    """One block of the rows of several that are not gone."""
    queries: list[str] = []
    sources: list[tuple[Columns, NDArray[np.intp], int]] = []
    for block in blocks:
        kept = np.flatnonzero(block["alive"])
        sources.append((block, kept, len(queries)))
        queries += [query_at(block, at) for at in kept]
    order = np.array(sorted(range(len(queries)), key=lambda i: (fold(queries[i]), queries[i])), dtype=np.intp)
    place = np.empty(len(order), dtype=np.intp)
    place[order] = np.arange(len(order))
    out = {name: np.concatenate([b[name][kept] for b, kept, _ in sources])[order] for name in ROW}
    parts = []
    for block, kept, first in sources:
        now = np.full(len(block["alive"]), -1, dtype=np.intp)
        now[kept] = place[first : first + len(kept)]
        moved = now[block["of"]]
        there = moved >= 0
        parts.append((block["role"][there], block["value"][there], moved[there]))
    role, value, of = (np.concatenate(x) for x in zip(*parts, strict=True))
    sequence = np.lexsort((of, value, role))
    for name, column in (("role", role), ("value", value), ("of", of)):
        out[name] = column[sequence].astype(TYPES[name])
    return {**out, **_texts([queries[i] for i in order])}


def _texts(queries: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Queries and folded queries; the latter are left empty where they are the same."""
    folded = [fold(q) for q in queries]
    data, at = texts_as_bytes(queries)
    if folded == list(queries):
        other, other_at = texts_as_bytes([])
        return {"query": data, "query_at": at, "folded": other, "folded_at": other_at, **pairs_of(data, at)}
    other, other_at = texts_as_bytes(folded)
    return {"query": data, "query_at": at, "folded": other, "folded_at": other_at, **pairs_of(other, other_at)}


def query_at(block: Columns, at: int) -> str:
    """The query of a row."""
    start, end = block["query_at"][at : at + 2]
    return block["query"][start : end - 1].tobytes().decode()


def place_of(block: Columns, query: str) -> tuple[int, bool]:
    """The number of rows before a query in the order of the block, and whether the next row is the query."""
    wanted = (fold(query), query)

    def key(at: int) -> tuple[str, str]:
        found = query_at(block, at)
        return fold(found), found

    size = len(block["query_at"]) - 1
    at = bisect_left(range(size), wanted, key=key)
    return at, at < size and query_at(block, at) == query


def with_role(block: Columns, size: int, role: int) -> Bools:
    """Rows with a label of a role."""
    out = np.zeros(size, dtype=np.bool_)
    first, last = _range(block["role"], role)
    out[block["of"][first:last]] = True
    return out


def with_values(block: Columns, size: int, role: int, values: Sequence[int]) -> Bools:
    """Rows with one of some values of a role."""
    out = np.zeros(size, dtype=np.bool_)
    first, last = _range(block["role"], role)
    for value in values:
        start, end = _range(block["value"][first:last], value)
        out[block["of"][first + start : first + end]] = True
    return out


def _range(column: NDArray[Any], wanted: int) -> tuple[int, int]:
    """Where a sorted column has a number."""
    number = column.dtype.type(wanted)
    return int(np.searchsorted(column, number)), int(np.searchsorted(column, number, side="right"))


class Hashes:
    """A set of hashes that many at a time are looked up in."""

    _BITS: Final = 20

    def __init__(self, members: Iterable[int] | Longs) -> None:
        self._members = np.unique(np.fromiter(members, np.int64) if not isinstance(members, np.ndarray) else members)
        self._first = np.zeros(1 << self._BITS, dtype=np.bool_)
        self._first[self._members & ((1 << self._BITS) - 1)] = True

    def __len__(self) -> int:
        return len(self._members)

    def among(self, hashes: Longs) -> Bools:
        """Which of some hashes are members; most that are not are told by their last bits, without a search."""
        out = np.asarray(self._first[hashes & ((1 << self._BITS) - 1)])
        candidates = np.flatnonzero(out)
        if len(candidates):
            places = np.searchsorted(self._members, hashes[candidates])
            places[places == len(self._members)] = 0
            out[candidates] = self._members[places] == hashes[candidates]
        return out

    def changed(self, member: int, inside: bool) -> Hashes:
        """The set with a hash, or without it."""
        others = self._members[self._members != member]
        return Hashes(np.append(others, np.int64(member)) if inside else others)

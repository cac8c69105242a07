"""Finding the rows of a page: every block is filtered, and the best of each are merged.

All of the rows are looked at, a block at a time: what a filter costs does not depend on how many rows pass it.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from limbeck.console import label_store as store
from limbeck.console.label_block import (
    AGREES,
    DISAGREES,
    Hashes,
    place_of,
    query_at,
    with_role,
    with_values,
)
from limbeck.console.label_filter import LabelFilter, fold
from limbeck.console.label_store import StoredBlock
from limbeck.console.label_text import Bools, containing
from teacher.ledger.records import STATUSES

_STUDENT: Final = {"agrees": AGREES, "disagrees": DISAGREES}
_MIX: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))  # SplitMix64 (Steele et al. 2014)
_STEP: Final = 0x9E3779B97F4A7C15


class Place(NamedTuple):
    """Where a row stands in an order: by key, rows with the same key by `tie`.

    Attributes:
        key: Less for a row that comes first; in the order `query` the folded query.
        tie: The hash of the query; in the order `query` the query.
    """

    key: Any
    tie: Any


class Hit(NamedTuple):
    """A row that was found.

    Attributes:
        rowid: Where it was in the ledger.
        block: Number of its block.
        at: Its position there.
    """

    place: Place
    rowid: int
    block: int
    at: int


@dataclass(frozen=True, slots=True)
class Hits:
    """Rows in the order of the filter, how many pass it in all, and whether there are some on either side."""

    rows: list[Hit]
    total: int
    before: bool
    after: bool


class Matcher:
    """A filter with the numbers that its names have in an index."""

    def __init__(self, db: sqlite3.Connection, wanted: LabelFilter, reviewed: Hashes) -> None:
        self._wanted, self._reviewed = wanted, reviewed
        self._role = store.role_number(db, wanted.role) if wanted.role else None
        self._values: list[int] = []
        if wanted.value and self._role is not None:
            self._values = store.value_numbers(db, self._role, wanted.value)
        self._reasons = store.value_numbers(db, store.REASON, wanted.reason) if wanted.reason else []
        self._statuses = np.isin(np.array(STATUSES), wanted.status)
        self._text = fold(wanted.text)

    def rows(self, block: StoredBlock) -> Bools:
        """Which rows of a block pass. Columns are read only where a filter needs them and rows are left."""
        w, out = self._wanted, block["alive"].copy()
        if w.status:
            out &= self._statuses[block["status"]]
        for name, low, high in (
            ("count", w.count_from, w.count_to), ("confidence", w.confidence_from, w.confidence_to)
        ):
            if low is not None:
                out &= block[name] >= low
            if high is not None:
                out &= block[name] <= high
        if w.student is not None:
            out &= block["student"] == _STUDENT[w.student]
        if w.reviewed is not None:
            out &= self._reviewed.among(block["hash"]) == w.reviewed
        if w.role and out.any():
            if self._role is None:
                return np.zeros(block.size, np.bool_)
            out &= (
                with_values(block, block.size, self._role, self._values) if w.value
                else with_role(block, block.size, self._role)
            )
        if w.reason and out.any():
            out &= with_values(block, block.size, store.REASON, self._reasons)
        if self._text and out.any():
            out = containing(block, out, self._text)
        return out


def find(
    blocks: Iterable[StoredBlock], matcher: Matcher, wanted: LabelFilter, *, limit: int, after: Place | None = None,
    before: Place | None = None,
) -> Hits:
    """The first rows after a place, or the last ones before one; without a place the first.

    Args:
        limit: Most rows.
    """
    backwards = before is not None
    start = before if backwards else after
    best = _Best(wanted, limit, descending=wanted.reverse != backwards)
    total = here = 0
    for block in blocks:
        passing = matcher.rows(block)
        total += int(np.count_nonzero(passing))
        key = _keys(block, wanted)
        if start is not None:
            passing &= best.beyond(block, key, start)
        here += int(np.count_nonzero(passing))
        best.add(block, key, passing)
    found = best.hits()
    behind, ahead = total > here, here > len(found)
    if backwards:
        found.reverse()
        return Hits(found, total, before=ahead, after=behind)
    return Hits(found, total, before=behind, after=ahead)


class _Best:
    """The first rows of an order, or of the opposite one, among those that were added."""

    def __init__(self, wanted: LabelFilter, limit: int, *, descending: bool) -> None:
        self._by_text, self._limit, self._descending = wanted.order == "query", limit, descending
        self._hits: list[Hit] = []

    def hits(self) -> list[Hit]:
        """At most `limit`, the first one first."""
        return self._hits

    def beyond(self, block: StoredBlock, key: NDArray[Any], start: Place) -> Bools:
        """Rows after a place."""
        if self._by_text:
            at, there = place_of(block, start.tie)
            return np.asarray(key < at if self._descending else key >= at + there)
        tie = block["hash"]
        if self._descending:
            return np.asarray((key < start.key) | ((key == start.key) & (tie < start.tie)))
        return np.asarray((key > start.key) | ((key == start.key) & (tie > start.tie)))

    def add(self, block: StoredBlock, key: NDArray[Any], passing: Bools) -> None:
        """Take in the rows of a block that pass."""
        if not self._by_text and len(self._hits) == self._limit:  # most rows are no better than the last one so far
            last = self._hits[-1].place.key
            passing = passing & (key >= last if self._descending else key <= last)
        rows = np.flatnonzero(passing)
        if len(rows) > self._limit:
            rows = self._first(block, key, rows)
        if len(rows):
            self._hits += self._read(block, key, rows)
            self._hits.sort(reverse=self._descending)
            del self._hits[self._limit :]

    def _first(self, block: StoredBlock, key: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """The first `limit` of more rows, in any order."""
        if self._by_text:
            return rows[-self._limit :] if self._descending else rows[: self._limit]
        keys, ties = key[rows], block["hash"][rows]
        if self._descending:  # ~x is -x - 1, which no number is too great for
            keys, ties = np.negative(keys) if keys.dtype.kind == "f" else ~keys, ~ties
        last = np.partition(keys, self._limit - 1)[self._limit - 1]
        first, same = np.flatnonzero(keys < last), np.flatnonzero(keys == last)
        left = self._limit - len(first)
        if len(same) > left:
            same = same[np.argpartition(ties[same], left - 1)[:left]]
        return np.asarray(rows[np.concatenate([first, same])])

    def _read(self, block: StoredBlock, key: NDArray[Any], rows: NDArray[np.intp]) -> list[Hit]:
        rowids = block["rowid"][rows].tolist()
        if self._by_text:
            queries = [query_at(block, at) for at in rows]
            keys, ties = [fold(q) for q in queries], queries
        else:
            keys, ties = key[rows].tolist(), block["hash"][rows].tolist()
        return [
            Hit(Place(k, t), rowid, block.number, at)
            for k, t, rowid, at in zip(keys, ties, rowids, rows.tolist(), strict=True)
        ]


def _keys(block: StoredBlock, wanted: LabelFilter) -> NDArray[Any]:
    """Less for rows that come first."""
    if wanted.order == "traffic":
        return np.asarray(-block["count"])
    if wanted.order == "confidence":
        return np.asarray(block["confidence"])
    if wanted.order == "doubt":
        return np.asarray((block["confidence"] - 1.0) * block["count"])
    if wanted.order == "random":
        return _shuffled(block["hash"], wanted.seed)
    return np.arange(block.size)


def _shuffled(hashes: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    mixed = hashes.view(np.uint64) + np.uint64((seed + 1) * _STEP % 2**64)
    for shift, factor in _MIX:
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed.view(np.int64)


def to_cursor(place: Place, wanted: LabelFilter) -> str:
    """A place as a word of an address. It says nothing about the file, so that it holds while rows come and go."""
    tie = [place.tie] if wanted.order == "query" else [place.key, place.tie]
    text = json.dumps([wanted.order, wanted.seed, *tie], ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def from_cursor(cursor: str, wanted: LabelFilter) -> Place:
    """The inverse of `to_cursor`.

    Raises:
        ValueError: It is of another order, or is not a cursor; the message is for the user.
    """
    problem = "This address does not lead to a page of this list: begin again at the first page."
    try:
        found = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError) as error:
        raise ValueError(problem) from error
    match found:
        case [wanted.order, wanted.seed, str(query)] if wanted.order == "query":
            return Place(fold(query), query)
        case [wanted.order, wanted.seed, int() | float() as key, int(tie)] if wanted.order != "query":
            return Place(key, tie)
    raise ValueError(problem)

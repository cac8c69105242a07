"""Finding the rows of a page: every block is filtered, and the best of each are merged.

All of the rows are looked at, a block at a time: what a filter costs does not depend on how many rows pass it.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limbeck.console import label_store as store
from limbeck.console.label_block import AGREES, DISAGREES, Bools, Hashes, containing, place_of, query_at, with_facet
from limbeck.console.label_filter import LabelFilter, fold
from limbeck.console.label_store import StoredBlock
from teacher.ledger.records import STATUSES

_STUDENT: Final = {"agrees": AGREES, "disagrees": DISAGREES}
_MIX: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))  # SplitMix64 (Steele et al. 2014)
_STEP: Final = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a row stands in an order: by key, rows with the same key by `tie`.

    Attributes:
        key: Less for a row that comes first; in the order `query` the folded query.
        tie: The hash of the query; in the order `query` the query.
    """

    key: Any
    tie: Any


@dataclass(frozen=True, slots=True)
class Hit:
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
        self._statuses = [STATUSES.index(s) for s in wanted.status]
        self._text = fold(wanted.text)

    def rows(self, block: StoredBlock) -> Bools:
        """Which rows of a block pass. Columns are read only where a filter needs them and rows are left."""
        w, out = self._wanted, block["alive"].copy()
        if w.status:
            out &= np.isin(block["status"], self._statuses)
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
            name, numbers = ("value", self._values) if w.value else ("role", _known(self._role))
            out &= with_facet(block, block.size, name, numbers)
        if w.reason and out.any():
            out &= with_facet(block, block.size, "value", self._reasons)
        if self._text and out.any():
            out &= containing(block, self._text)
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
    descending = wanted.reverse != backwards
    found: list[Hit] = []
    total = here = 0
    for block in blocks:
        passing = matcher.rows(block)
        total += int(np.count_nonzero(passing))
        beyond = passing if start is None else passing & _beyond(block, wanted, start, descending)
        here += int(np.count_nonzero(beyond))
        best = _best(block, np.flatnonzero(beyond), wanted, limit, descending)
        found += _hits(block, best, wanted)
    found.sort(key=lambda hit: hit.place, reverse=descending)
    del found[limit:]
    behind, ahead = total > here, here > len(found)
    if backwards:
        found.reverse()
        return Hits(found, total, before=ahead, after=behind)
    return Hits(found, total, before=behind, after=ahead)


def keys(block: StoredBlock, wanted: LabelFilter) -> NDArray[Any]:
    """The keys of all rows: less for those that come first."""
    if wanted.order == "traffic":
        return np.negative(block["count"])
    if wanted.order == "confidence":
        return np.asarray(block["confidence"])
    if wanted.order == "doubt":
        return np.negative((1.0 - block["confidence"]) * block["count"])
    if wanted.order == "random":
        return _shuffled(block["hash"], wanted.seed)
    return np.arange(block.size)


def _shuffled(hashes: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    mixed = hashes.view(np.uint64) + np.uint64((seed + 1) * _STEP % 2**64)
    for shift, factor in _MIX:
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed.view(np.int64)


def _beyond(block: StoredBlock, wanted: LabelFilter, start: Place, descending: bool) -> Bools:
    """Rows that come after a place in an order, or in the opposite one."""
    if wanted.order == "query":
        at, there = place_of(block, start.tie)
        places = np.arange(block.size)
        return places < at if descending else places >= at + there
    key, tie = keys(block, wanted), block["hash"]
    if descending:
        return np.asarray((key < start.key) | ((key == start.key) & (tie < start.tie)))
    return np.asarray((key > start.key) | ((key == start.key) & (tie > start.tie)))


def _best(
    block: StoredBlock, rows: NDArray[np.intp], wanted: LabelFilter, limit: int, descending: bool
) -> NDArray[np.intp]:
    """The first `limit` of some rows, in any order."""
    if len(rows) <= limit or wanted.order == "query":
        return rows[-limit:] if descending else rows[:limit]
    key, tie = keys(block, wanted)[rows], block["hash"][rows]
    if descending:
        key, tie = -key if key.dtype.kind == "f" else ~key, ~tie  # ~x = -x - 1, which no number is too great for
    last = np.partition(key, limit - 1)[limit - 1]
    first, ties = np.flatnonzero(key < last), np.flatnonzero(key == last)
    left = limit - len(first)
    if len(ties) > left:
        ties = ties[np.argpartition(tie[ties], left - 1)[:left]]
    return np.asarray(rows[np.concatenate([first, ties])])


def _hits(block: StoredBlock, rows: NDArray[np.intp], wanted: LabelFilter) -> list[Hit]:
    if wanted.order == "query":
        places = [Place(fold(q), q) for q in (query_at(block, at) for at in rows)]
    else:
        places = [Place(*x) for x in zip(keys(block, wanted)[rows].tolist(), block["hash"][rows].tolist(), strict=True)]
    rowids = block["rowid"][rows].tolist()
    return [Hit(p, r, block.number, at) for p, r, at in zip(places, rowids, rows.tolist(), strict=True)]


def _known(number: int | None) -> list[int]:
    return [] if number is None else [number]


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

"""What the form of the label list offers: statuses, roles, values and reasons, with the number of rows of each."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from limbeck.console import label_store as store
from limbeck.console.label_filter import fold
from limbeck.console.student_labels import NONE
from teacher.ledger.records import STATUSES, Status

MOST: Final = 50
_LAST: Final = "\U0010ffff"
_Name = TypeVar("_Name", bound=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facets:
    """What there is to filter by, each with its number of rows, the most frequent first.

    Attributes:
        reasons: At most `MOST`.
        no_predictions: Why rows cannot be filtered by the student's labels, and what to do; None if they can.
    """

    statuses: dict[Status, int]
    roles: dict[str, int]
    reasons: dict[str, int]
    no_predictions: str | None


def facets(db: sqlite3.Connection) -> Facets:
    """The facets of the rows that pages show."""
    names = dict(db.execute("SELECT id, name FROM roles WHERE id != ?", (store.REASON,)))
    statuses, roles = np.zeros(len(STATUSES), np.int64), np.zeros(max(names, default=0) + 1, np.int64)
    for block in store.blocks(db, store.shown_generation(db)):
        alive = block["alive"]
        statuses += np.bincount(block["status"][alive], minlength=len(STATUSES))
        having = np.zeros((len(roles), block.size), np.bool_)
        having[block["role"], block["of"]] = True
        roles += np.count_nonzero(having & alive, axis=1)
    return Facets(
        statuses=_frequent(STATUSES, statuses.tolist()),
        roles=_frequent(list(names.values()), [int(roles[i]) for i in names]),
        reasons=values(db, "", ""), no_predictions=no_predictions(db),
    )


def values(db: sqlite3.Connection, role: str, prefix: str) -> dict[str, int]:
    """The most frequent values of a role that begin with a text, in any case, at most `MOST`; reasons for no role."""
    number = store.role_number(db, role)
    if number is None:
        return {}
    counts = _counts(db, number)
    if prefix:
        low = fold(prefix)
        sql = 'SELECT id FROM "values" WHERE role = ? AND folded >= ? AND folded <= ?'
        inside = np.zeros(len(counts), np.bool_)
        found = np.array([i for (i,) in db.execute(sql, (number, low, low + _LAST))], np.intp)
        inside[found[found < len(counts)]] = True
        counts[~inside] = 0
    best = np.argsort(-counts, kind="stable")[:MOST]
    best = best[counts[best] > 0]
    marks = ",".join("?" * len(best))
    texts = dict(db.execute(f'SELECT id, value FROM "values" WHERE id IN ({marks})', best.tolist()))
    return _frequent([texts[i] for i in best.tolist()], counts[best].tolist())


def _counts(db: sqlite3.Connection, role: int) -> NDArray[np.int64]:
    """Number of rows by number of the value, 0 for values of other roles."""
    parts: list[NDArray[Any]] = [
        block["value"][(block["role"] == role) & block["alive"][block["of"]]]
        for block in store.blocks(db, store.shown_generation(db))
    ]
    return np.bincount(np.concatenate([np.zeros(0, np.intp), *parts]))


def no_predictions(db: sqlite3.Connection) -> str | None:
    """Why there is nothing to compare the teacher's labels with; None if there is."""
    return None if store.get(db, "students") else NONE


def _frequent(names: Sequence[_Name], counts: Sequence[int]) -> dict[_Name, int]:
    found = sorted(zip(names, counts, strict=True), key=lambda x: (-x[1], str(x[0])))
    return {name: count for name, count in found if count}

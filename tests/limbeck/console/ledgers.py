"""Small ledgers of any content, and what the label list must show of them, computed row by row."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from limbeck.console.label_filter import ORDERS, LabelFilter, fold
from task.labels import Label
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import STATUSES, LedgerRow

REASONS = ("span: moved", "no usable reply", "pattern: does not match")
VALUES = ("oat", "Oat", "молоко", "奶", "a > b")
QUERIES = st.text(st.sampled_from("aAbB éÉß牛奶İ\n\0🥛 "), min_size=1, max_size=6)
CONFIDENCES = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])


@st.composite
def rows(draw: st.DrawFn, queries: st.SearchStrategy[str] = QUERIES) -> LedgerRow:
    """A row that agrees with itself as little as a ledger's may."""
    status = draw(st.sampled_from(STATUSES))
    labels = draw(st.lists(st.builds(
        Label, st.sampled_from(["brand", "aisle"]), st.sampled_from(VALUES), confidence=CONFIDENCES
    ), max_size=3))
    verdicts = [
        {"role": "brand", "text": "x", "verdict": "rejected", "reason": r}
        for r in draw(st.lists(st.sampled_from(REASONS), max_size=2))
    ]
    return LedgerRow(
        draw(queries), draw(st.sampled_from([0, 1, 1, 1, 7, 2**62])), "request", status, tuple(labels),
        draw(CONFIDENCES), reason=draw(st.sampled_from(["", *REASONS])), verdicts=verdicts,
    )


def _maybe(strategy: st.SearchStrategy[Any], otherwise: Any = None) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(otherwise), st.just(otherwise), strategy)


# Most filters of a page are left open, so that some rows pass.
FILTERS = st.builds(
    LabelFilter, status=_maybe(st.lists(st.sampled_from(STATUSES), unique=True).map(tuple), ()),
    role=_maybe(st.sampled_from(["brand", "aisle", "none"]), ""), value=_maybe(st.sampled_from(["OAT", "奶", "?"]), ""),
    reason=_maybe(st.sampled_from(REASONS), ""), confidence_from=_maybe(CONFIDENCES), confidence_to=_maybe(CONFIDENCES),
    count_from=_maybe(st.sampled_from([0, 1, 8])), count_to=_maybe(st.sampled_from([0, 1, 2**62])),
    reviewed=_maybe(st.booleans()), text=_maybe(st.text("aAB éß奶🥛İ", min_size=1, max_size=3), ""),
    order=st.sampled_from(ORDERS), reverse=st.booleans(), seed=st.integers(0, 3),
)


def write(path: Path, found: Sequence[LedgerRow]) -> None:
    """Write rows into a ledger, one after the other; a later one replaces one of the same query."""
    with Ledger(path) as ledger:
        ledger.write_rows(found)


def delete(path: Path, queries: Collection[str], *, vacuum: bool = False) -> None:
    """Take queries out of a ledger, as `limbeck forget` does."""
    with sqlite3.connect(path) as db:
        db.executemany("DELETE FROM rows WHERE query = ?", [(q,) for q in queries])
        db.commit()
        if vacuum:
            db.execute("VACUUM")
    db.close()


def passes(row: LedgerRow, wanted: LabelFilter, reviewed: Collection[str] = ()) -> bool:
    """Whether a row is in the list of a filter, apart from the student's predictions."""
    reasons = {fold(r) for r in (row.reason, *(v["reason"] for v in row.verdicts)) if r}
    held = {(x.role, fold(x.text)) for x in row.labels}
    return all((
        not wanted.status or row.status in wanted.status,
        not wanted.role or any(
            role == wanted.role and (not wanted.value or text == fold(wanted.value)) for role, text in held
        ),
        not wanted.reason or fold(wanted.reason) in reasons,
        wanted.confidence_from is None or row.confidence >= wanted.confidence_from,
        wanted.confidence_to is None or row.confidence <= wanted.confidence_to,
        wanted.count_from is None or row.count >= wanted.count_from,
        wanted.count_to is None or row.count <= wanted.count_to,
        wanted.reviewed is None or (row.query in reviewed) == wanted.reviewed,
        fold(wanted.text) in fold(row.query),
    ))


def key_of(row: LedgerRow, wanted: LabelFilter) -> Any:
    """What an order sorts by; None for the random one."""
    doubt = -((1.0 - row.confidence) * row.count)
    keys: Mapping[str, Any] = {
        "doubt": doubt, "traffic": -row.count, "confidence": row.confidence, "query": (fold(row.query), row.query),
    }
    return keys.get(wanted.order)

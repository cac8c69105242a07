"""Reading a whole label list, page by page, and holding it against the rows of the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from limbeck.artefacts import RunFolder
from limbeck.console.label_filter import LabelFilter
from limbeck.console.label_index import LabelIndex, LabelRow
from task.labels import Label
from teacher.ledger.records import LedgerRow
from tests.limbeck.console.ledgers import key_of, passes

EVERYTHING = LabelFilter()


def index_of(folder: Path) -> LabelIndex:
    index = LabelIndex(RunFolder(folder))
    assert index.update()
    return index


def paged(index: LabelIndex, wanted: LabelFilter, limit: int) -> list[LabelRow]:
    """All rows, by going forwards; going backwards from the end must give the same pages."""
    pages = [index.page(wanted, limit=limit)]
    assert pages[0].previous is None
    while (cursor := pages[-1].next) is not None:
        pages.append(index.page(wanted, after=cursor, limit=limit))
    back = pages[-1]
    for expected in reversed(pages[:-1]):
        assert back.previous is not None
        back = index.page(wanted, before=back.previous, limit=limit)
        assert back.rows == expected.rows
        assert back.next is not None
    assert back.previous is None
    assert all(p.total == pages[0].total for p in pages)
    return [row for page in pages for row in page.rows]


def check(
    index: LabelIndex, found: Sequence[LedgerRow], wanted: LabelFilter, reviewed: Sequence[str], limit: int
) -> None:
    """A list against the rows of the ledger."""
    expected = {r.query: r for r in found if passes(r, wanted, reviewed)}
    shown = paged(index, wanted, limit)
    assert Counter(r.query for r in shown) == Counter(expected.keys())
    assert index.count(wanted) == len(expected)
    for row in shown:
        of = expected[row.query]
        assert (row.count, row.status, row.confidence, row.labels, row.reason, row.reviewed) == (
            of.count, of.status, of.confidence, of.labels, of.reason, row.query in reviewed
        )
    keys = [key_of(expected[r.query], wanted) for r in shown]
    if wanted.order != "random":
        assert keys == sorted(keys, reverse=wanted.reverse)


def numbered(count: int, confidence: float = 0.5) -> list[LedgerRow]:
    return [
        LedgerRow(f"q{i:03}", i % 4, "key", "accepted", (Label("brand", f"v{i % 3}"),), confidence)
        for i in range(count)
    ]

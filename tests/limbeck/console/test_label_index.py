"""The label list shows what a scan of the ledger would, page by page."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.artefacts import RunFolder
from limbeck.console.label_filter import LabelFilter
from limbeck.console.label_index import LabelIndex
from task.errors import InputError
from teacher.ledger.records import LedgerRow
from tests.limbeck.console.label_lists import EVERYTHING, check, index_of, numbered
from tests.limbeck.console.ledgers import FILTERS, delete, rows, write

pytestmark = pytest.mark.usefixtures("small_blocks")


@settings(max_examples=40)
@given(st.lists(rows(), max_size=40), st.lists(FILTERS, min_size=1, max_size=6), st.data())
def test_pages_and_counts_are_those_of_a_scan(
    found: list[LedgerRow], filters: list[LabelFilter], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name, "ledger.sqlite"), found)
        index = index_of(Path(name))
        current = list({r.query: r for r in found}.values())
        reviewed = data.draw(st.lists(st.sampled_from([r.query for r in current]), unique=True)) if current else []
        for query in reviewed:
            index.reviewed(query, now=True)
        for wanted in filters:
            check(index, current, wanted, reviewed, limit=data.draw(st.integers(1, 9)))


@settings(max_examples=20)
@given(st.lists(rows(), max_size=40))
def test_facets_are_counts_of_a_scan(found: list[LedgerRow]) -> None:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name, "ledger.sqlite"), found)
        index = index_of(Path(name))
        current = list({r.query: r for r in found}.values())
        facets = index.facets()
        assert facets.statuses == Counter(r.status for r in current)
        assert facets.roles == Counter(role for r in current for role in {x.role for x in r.labels})
        assert facets.reasons == Counter(
            reason for r in current for reason in {r.reason, *(v["reason"] for v in r.verdicts)} - {""}
        )
        counts = Counter(text for r in current for text in {x.text for x in r.labels if x.role == "brand"})
        assert index.values("brand") == counts
        assert index.values("brand", "oA") == {v: n for v, n in counts.items() if v.casefold().startswith("oa")}
        assert index.values("nothing") == {}


def test_a_row_that_changes_between_two_pages_moves_and_no_other_is_lost_or_doubled(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    write(path, numbered(30))
    index = index_of(tmp_path)
    wanted = LabelFilter(order="traffic")
    first = index.page(wanted, limit=10)
    seen = [r.query for r in first.rows]
    write(path, [LedgerRow(seen[-1], 0, "key", "accepted", (), 0.5), LedgerRow("new", 99, "key", "failed", (), 0.0)])
    index.update()
    cursor = first.next
    rest = []
    while cursor:
        page = index.page(wanted, after=cursor, limit=10)
        rest += [r.query for r in page.rows]
        cursor = page.next
    assert sorted({*seen, *rest}) == [f"q{i:03}" for i in range(30)]
    assert Counter(seen + rest).most_common(2)[0] == (seen[-1], 2)  # it came again, where it is now
    assert Counter(seen + rest).most_common(2)[1][1] == 1
    assert index.page(wanted, limit=1).rows[0].query == "new"


def test_a_page_shows_what_the_ledger_says_now_and_nothing_that_was_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    write(path, numbered(3))
    index = index_of(tmp_path)
    write(path, [LedgerRow("q000", 5, "key", "partial", (), 0.25)])
    delete(path, ["q001"])
    shown = {r.query: r for r in index.page(EVERYTHING).rows}
    assert shown.keys() == {"q000", "q002"}
    assert (shown["q000"].status, shown["q000"].confidence) == ("partial", 0.25)


def test_without_a_ledger_there_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the ledger"):
        LabelIndex(RunFolder(tmp_path))


def test_a_file_that_is_no_index_is_named_and_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "ledger.sqlite", numbered(3))
    index = index_of(tmp_path)
    for rest in index.path.parent.glob("labels.sqlite-*"):
        rest.unlink()
    index.path.write_text("not a database " * 99)
    for ask in (index.update, index.state, lambda: index.page(EVERYTHING)):
        with pytest.raises(InputError, match="remove the file: it is made again from the ledger") as error:
            ask()
        assert error.value.file == index.path
    index.path.unlink()
    assert index.page(EVERYTHING).rows == []
    index.update()
    assert len(index.page(EVERYTHING).rows) == 3

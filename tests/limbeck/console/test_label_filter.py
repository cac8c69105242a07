"""A filter is read from an address and written into one."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

import pytest
from hypothesis import given

from limbeck.console.label_filter import LabelFilter, fold
from limbeck.console.label_search import Place, from_cursor, to_cursor
from tests.limbeck.console.ledgers import FILTERS


@given(FILTERS.filter(lambda f: (f.role or not f.value) and (f.confidence_from or 0) <= (
    1 if f.confidence_to is None else f.confidence_to
) and (f.count_from or 0) <= (2**63 if f.count_to is None else f.count_to)))
def test_a_filter_is_what_its_address_says(wanted: LabelFilter) -> None:
    pairs = parse_qsl(wanted.to_query(), keep_blank_values=True)
    assert LabelFilter.from_query(pairs) == wanted
    assert LabelFilter.from_query(dict(pairs)) == wanted
    assert LabelFilter.from_query([*pairs, ("after", "x"), ("before", "")]) == wanted


def test_an_address_without_filters_shows_everything_by_doubt() -> None:
    assert LabelFilter.from_query({"status": "", "text": "", "count_from": ""}) == LabelFilter()
    assert LabelFilter().to_query() == ""
    assert LabelFilter().order == "doubt"


def test_a_form_gives_a_status_for_each_box() -> None:
    pairs = [("status", "partial"), ("status", "failed"), ("status", "partial")]
    assert LabelFilter.from_query(pairs).status == ("partial", "failed")


@pytest.mark.parametrize(("params", "message"), [
    ({"colour": "red"}, "There is no filter `colour`; there are status"),
    ({"status": "fine"}, "`status` is 'fine'; it can be accepted, partial"),
    ({"status": "failed,"}, "`status` is ''"), ({"order": "size"}, "it can be doubt, traffic"),
    ({"student": "maybe"}, "it can be agrees, disagrees"), ({"reviewed": "1"}, "it can be yes, no"),
    ({"confidence_from": "0,5"}, "a number from 0 to 1"), ({"confidence_to": "1.1"}, "a number from 0 to 1"),
    ({"confidence_to": "nan"}, "a number from 0 to 1"), ({"count_from": "-1"}, "a whole number"),
    ({"count_to": "1e3"}, "a whole number"), ({"count_to": str(2**63)}, "a whole number"),
    ({"seed": "²"}, "a whole number"),
    ({"value": "oat"}, "A value without a role"),
    ({"count_from": "3", "count_to": "2"}, "No row has a count from 3 to 2"),
    ({"confidence_from": "0.5", "confidence_to": "0.25"}, "No row has a confidence from 0.5 to 0.25"),
    ([("text", "a"), ("text", "b")], "`text` is given twice"),
])
def test_what_no_row_can_have_is_said(params: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(message)}.*\\.$"):
        LabelFilter.from_query(params)


@given(FILTERS)
def test_a_cursor_is_read_as_it_was_written_by_its_own_list_only(wanted: LabelFilter) -> None:
    place = Place(fold("Oat 牛?&"), "Oat 牛?&") if wanted.order == "query" else Place(-0.125, -(2**63))
    cursor = to_cursor(place, wanted)
    assert cursor.replace("-", "").replace("_", "").isalnum()
    assert from_cursor(cursor, wanted) == place
    other = LabelFilter(order="traffic" if wanted.order == "random" else "random")
    for bad, of in ((cursor, other), ("?", wanted), ("bnVsbA", wanted), ("é", wanted), ("W" * 9_999, wanted)):
        with pytest.raises(ValueError, match="begin again at the first page"):
            from_cursor(bad, of)


@pytest.mark.parametrize(("one", "other"), [
    ("MILCH", "milch"), ("É", "e\u0301"), ("straße", "STRASSE"), ("МОЛОКО", "молоко"),
])
def test_texts_are_compared_in_any_case_and_composed(one: str, other: str) -> None:
    assert fold(one) == fold(other)

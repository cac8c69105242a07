from hypothesis import given
from hypothesis import strategies as st

from task.normalize import normalize_v1


@given(st.text())
def test_it_is_idempotent(text: str) -> None:
    once = normalize_v1(text)
    assert normalize_v1(once) == once


@given(st.text())
def test_no_control_characters_and_no_double_blanks_are_left(text: str) -> None:
    out = normalize_v1(text)
    assert out == out.strip()
    assert "  " not in out
    assert not any(ord(c) < 32 for c in out)


def test_what_shoppers_mean_to_be_the_same_is_the_same() -> None:
    assert normalize_v1("  Ben’s\tOAT—Milk\u00a0１L ") == "ben's oat-milk 1l"
    assert normalize_v1("STRASSE") == normalize_v1("straße")


def test_what_differs_stays_different() -> None:
    assert normalize_v1("sugar free") != normalize_v1("sugarfree")
    assert normalize_v1("milk") != normalize_v1("milks")

"""Tags of every scheme give the spans they were made of; what has no certain reading is refused with row and tag."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Entities

from task.errors import InputError, InputWarning
from task.tagged_tokens import spans_of_tags

Span = tuple[str, int, int]  # role, first token, one past the last
# Letters for a span of one token, and for the first, the middle and the last token of a longer one.
LETTERS = {"IOB2": "BBII", "BIOES": "SBIE", "BILOU": "UBIL", "BMES": "SBME", "BMEWO": "WBME"}
REFERENCES = {"IOB1": IOB1, "IOB2": IOB2, "BIOES": IOBES, "BILOU": BILOU}


def tags_of(length: int, spans: list[Span], scheme: str) -> list[str]:
    out = ["O"] * length
    for role, start, end in spans:
        if scheme == "IOB1":
            letters = "I" * (end - start)
            if any(r == role and e == start for r, _, e in spans):
                letters = "B" + letters[1:]
        else:
            one, first, middle, last = LETTERS[scheme]
            letters = one if end - start == 1 else first + middle * (end - start - 2) + last
        out[start:end] = [f"{letter}-{role}" for letter in letters]
    return out


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, list[Span]]:
    """A number of tokens, and spans over them that may touch."""
    length = draw(st.integers(1, 9))
    out: list[Span] = []
    at = 0
    while at < length:
        end = min(length, at + draw(st.integers(1, 4)))
        if role := draw(st.sampled_from([None, "brand", "B-like", "_I"])):
            out.append((role, at, end))
        at = end
    return length, out


def read(rows: list[dict[str, Any]]) -> list[list[tuple[str, str]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = list(spans_of_tags(("file", n, r) for n, r in enumerate(rows, 1)))
    for _, _, row in found:
        assert all(row["query"][x["start"] : x["end"]] == x["text"] for x in row["labels"])
    return [[(x["role"], x["text"]) for x in row["labels"]] for _, _, row in found]


@pytest.mark.parametrize("scheme", ["IOB1", *LETTERS])
@given(column=st.lists(spans(), min_size=1, max_size=4))
def test_spans_come_back_from_tags(scheme: str, column: list[tuple[int, list[Span]]]) -> None:
    tags = [tags_of(length, made, scheme) for length, made in column]
    rows = [{"tokens": [f"w{i}" for i in range(len(t))], "ner_tags": t} for t in tags]
    wanted = [[(r, " ".join(f"w{i}" for i in range(s, e))) for r, s, e in made] for _, made in column]
    assert read(rows) == wanted
    if reference := REFERENCES.get(scheme):
        strict = Entities(tags, scheme=reference).entities
        assert [[(e.tag, e.start, e.end) for e in row] for row in strict] == [made for _, made in column]


def bad(*rows: tuple[list[str] | None, Any], names: tuple[str, ...] = ()) -> str:
    made = [{"tokens": tokens, "ner_tags": tags} for tokens, tags in rows]
    with pytest.raises(InputError) as caught:
        list(spans_of_tags((("file", n, r) for n, r in enumerate(made, 1)), names))
    return str(caught.value)


TWO = ["oat", "y"]


@pytest.mark.parametrize(("tag", "fix"), [
    ("brand", ""), ("B_brand", "`-` between"), ("b-brand", "capital"), ("brand-B", "letter first"), ("o", "capital"),
    (3, "ClassLabel"), ("3", "ClassLabel"), (None, ""), ("", ""), ("B-", ""), ("X-brand", ""), (True, ""),
])
def test_an_unknown_tag_is_refused_with_row_and_place(tag: object, fix: str) -> None:
    said = bad((TWO, ["O", "O"]), (TWO, ["O", tag]))
    assert said.startswith("file:2: ner_tags.1: unknown tag; found ")
    assert repr(tag) in said.replace("'null'", "None")
    assert fix in said


@pytest.mark.parametrize(("tokens", "tags", "said"), [
    (TWO, ["O"], "file:1: ner_tags: 2 tokens and 1 tags"),
    (TWO, None, "file:1: ner_tags: not a list; found 'null'"),
    (None, ["O"], "file:1: tokens: not a list; found 'null'"),
    (["oat", None], ["O", "O"], "file:1: tokens.1: no token"),
    ([["oat"], "milk"], ["O", "O"], "file:1: tokens.0: no token; found ['oat']"),
    (TWO, "O O", "file:1: ner_tags: not a list; found 'O O'"),
])
def test_ragged_and_missing_lists_are_refused_with_the_row(tokens: Any, tags: Any, said: str) -> None:
    assert said in bad((tokens, tags))


def test_letters_of_two_schemes_are_refused_where_the_second_one_begins() -> None:
    said = bad((TWO, ["B-brand", "E-brand"]), (TWO, ["O", "U-brand"]))
    assert "file:2: ner_tags.1: tags of two schemes in one column; found 'U-brand'" in said


@pytest.mark.parametrize(("broken", "place"), [
    (["B-a", "O"], "ner_tags.1"), (["B-a", "S-a"], "ner_tags.1"), (["B-a", "I-a"], "ner_tags.2"),
    (["I-a", "E-a"], "ner_tags.0"), (["E-a", "O"], "ner_tags.0"), (["B-a", "E-b"], "ner_tags.1"),
    (["B-a", "B-a"], "ner_tags.1"),
])
def test_a_column_with_last_tags_has_them_in_every_span(broken: list[str], place: str) -> None:
    """The rows before and after decide: the same tags are read where no row marks the last token."""
    marked = (TWO, ["B-a", "E-a"])
    for rows in ([(TWO, broken), marked], [marked, (TWO, broken)]):
        said = bad(*rows)
        assert f"file:{1 + rows.index((TWO, broken))}: {place}: a span without its first or last tag" in said


def test_names_of_classes_count_as_tags_of_the_column() -> None:
    assert "without its first or last" in bad((TWO, ["B-a", "O"]), names=("O", "B-a", "I-a", "E-a", "S-a"))


def test_iob1_and_iob2_in_one_column_are_read_and_told() -> None:
    rows = [{"tokens": TWO, "tags": ["I-a", "I-a"]}, {"tokens": TWO, "tags": ["B-a", "I-b"]}]
    with pytest.warns(InputWarning, match=r"as in IOB1 \(row 1: 'I-a'\).*as in IOB2 \(row 2: 'B-a'\)"):
        found = list(spans_of_tags(("file", n, r) for n, r in enumerate(rows, 1)))
    texts = [[(x["role"], x["text"]) for x in row["labels"]] for _, _, row in found]
    assert texts == [[("a", "oat y")], [("a", "oat"), ("b", "y")]]


def test_other_columns_stay_and_rows_with_a_query_are_left_alone() -> None:
    rows = [{"tokens": ["oat"], "tags": ["B-a"], "count": 3, "id": "x"}, {"query": "oat", "tags": ["vegan"]}]
    (_, _, first), (_, _, second) = spans_of_tags(("file", n, r) for n, r in enumerate(rows, 1))
    assert (first["count"], first["id"], "tokens" in first) == (3, "x", False)
    assert second is rows[1]

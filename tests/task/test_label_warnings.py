"""What is read as it stands, though it is probably damaged, is told with its number, an example and a line."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from task.errors import InputError, InputWarning
from task.readers import read_catalogue, read_conversions, read_labels, read_queries
from task.spec import Task
from task.table_files import rows_of
from task.word_borders import cuts_word


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def gold(text: str, **place: int) -> dict[str, object]:
    return {"query": "oat milk", "labels": [{"role": "product", "text": text, **place}]}


def test_labels_that_cut_a_word_are_told(tmp_path: Path, task: Task) -> None:
    path = lines(tmp_path / "g.jsonl", gold("milk"), gold("ilk"), gold("oat mi", start=0, end=6))
    with pytest.warns(InputWarning, match=r"g\.jsonl: labels: 2 of 3 labels begin or end inside a word "
                      r"\('ilk' in 'oat milk', line 2; 'oat mi' in 'oat milk', line 3\)"):
        assert [x.start for r in read_labels(path, task) for x in r.labels] == [4, 5, 0]


@pytest.mark.parametrize(("query", "text"), [
    ("500ml milk", "500"), ("500ml milk", "ml"), ("milk,eggs", "milk"), ("l'oat", "oat"), ("iphone手机壳", "iphone"),
    ("有机牛奶", "牛奶"), ("우유를", "우유"), ("นมสด", "นม"), ("oat milk", "oat milk"),
])
def test_what_is_no_letter_or_has_no_blanks_is_not_told(query: str, text: str) -> None:
    start = query.index(text)
    assert not cuts_word(query, start, start + len(text))


@pytest.mark.parametrize(("query", "start", "end"), [("crème", 0, 3), ("молоко", 2, 6), ("OatMilk", 0, 3)])
def test_every_script_with_blanks_is_told(query: str, start: int, end: int) -> None:
    assert cuts_word(query, start, end)


def test_a_text_without_offsets_is_taken_where_it_is_a_word(tmp_path: Path, task: Task) -> None:
    rows = [
        {"query": "boiled oil", "labels": [{"role": "product", "text": "oil"}]},
        {"query": "tea tea", "labels": [{"role": "product", "text": "tea", "start": 4, "end": 7},
                                        {"role": "product", "text": "tea"}]},
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = read_labels(lines(tmp_path / "g.jsonl", *rows), task)
    assert [(x.start, x.end) for x in first.labels] == [(7, 10)]
    assert [(x.start, x.end) for x in second.labels] == [(0, 3), (4, 7)]


def test_queries_without_text_and_with_nul_are_told(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", *({"query": q} for q in ("oat", "  ", "", "oat\0", "\t", "\u3000")))
    with pytest.warns(InputWarning) as told:
        assert len(read_queries(path)) == 6
    blank, nul = (str(w.message) for w in told)
    assert "q.jsonl: query: 4 queries have no text (lines 2, 3, 5 and 1 more); they get no labels" in blank
    assert r"1 queries hold NUL characters (lines 4: 'oat\\x00')" in nul


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_file_that_was_cut_is_told_in_its_own_encoding(tmp_path: Path, suffix: str) -> None:
    text = "query\noat milk\n" if suffix == "csv" else '{"query": "oat milk"}\n'
    path = tmp_path / f"q.{suffix}"
    path.write_bytes(text.encode("utf-16")[:-1])
    with pytest.raises(InputError, match=r"not UTF-16, which its byte order mark says: .*Copy or export it again"):
        list(rows_of(path))


def test_a_column_of_one_attribute_is_told_how_to_be_written(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("id,title,attributes.colour\n1,Milk,red\n")
    with pytest.warns(InputWarning, match=r"not read: attributes\.colour; .* in CSV as JSON: \{\"colour\": …\}$"):
        read_catalogue(path)


def test_tags_beside_a_query_are_told_to_be_passed_over(tmp_path: Path, task: Task) -> None:
    path = lines(tmp_path / "g.jsonl", {"query": "oat", "tokens": ["oat"], "ner_tags": ["B-product"]})
    with pytest.raises(InputError, match="`tokens` and `ner_tags` are read where there is no `query`"):
        read_labels(path, task)


def test_floating_numbers_of_pandas_are_told(tmp_path: Path, task: Task) -> None:
    hint = r"pandas makes floating numbers of a column with gaps: write it with astype\('Int64'\)"
    with pytest.raises(InputError, match=rf"count: not a count; found 3\.0; .*{hint}"):
        read_queries(lines(tmp_path / "q.jsonl", {"query": "oat", "count": 3.0}))
    with pytest.raises(InputError, match=rf"item_id: not a text; found 123\.0; .*{hint}"):
        read_conversions(lines(tmp_path / "v.jsonl", {"query": "oat", "item_id": 123.0}), {"123": None})
    row = {"query": "oat", "labels": [{"role": "product", "text": "oat", "start": 0.0, "end": 3.0}]}
    with pytest.raises(InputError, match=hint):
        read_labels(lines(tmp_path / "g.jsonl", row), task)

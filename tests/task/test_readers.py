"""Errors of rows name file, line and field; good rows are read from every kind of file."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from task.errors import InputError, InputWarning
from task.labels import Label
from task.readers import read_catalogue, read_conversions, read_labels, read_queries
from task.spec import Task

ROWS = [{"query": "oat milk", "count": 3}, {"query": "vegan", "count": 1}]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_same_table_from_every_kind_of_file(tmp_path: Path) -> None:
    jsonl = write(tmp_path / "q.jsonl", "".join(json.dumps(r) + "\n" for r in ROWS))
    csv = write(tmp_path / "q.csv", "query,count\noat milk,3\nvegan,1\n")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "q.parquet")
    for path in (jsonl, csv, tmp_path / "q.parquet"):
        assert [(q.query, q.count) for q in read_queries(path)] == [("oat milk", 3), ("vegan", 1)]


def test_datasets_from_disk_with_tokens_and_tags(tmp_path: Path, task: Task) -> None:
    import datasets

    names = ["O", "B-brand", "I-brand", "B-product"]
    features = datasets.Features({
        "tokens": datasets.Sequence(datasets.Value("string")),
        "ner_tags": datasets.Sequence(datasets.ClassLabel(names=names)),
    })
    table = datasets.Dataset.from_dict({"tokens": [["oat", "y", "milk", "1l"]], "ner_tags": [[1, 2, 3, 0]]}, features)
    datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "hub"))
    (row,) = read_labels(f"hub:{tmp_path / 'hub'}:train", task)
    assert row.query == "oat y milk 1l"
    assert row.labels == (Label("brand", "oat y", 0, 5), Label("product", "milk", 6, 10))


@pytest.mark.parametrize(("text", "expected"), [
    ("", "holds no rows"),
    ('{"query": "a"}\n{"query": \n', ":2: not JSON"),
    ('{"query": "a"}\n[1]\n', ":2: not an object"),
    ('{"count": 1}\n', ":1: query: field is missing"),
    ('{"query": 5}\n', ":1: query: not a text; found 5"),
    ('{"query": "a", "count": -1}\n', ":1: count: not a count; found -1"),
    ('{"query": "a", "id": true}\n', ":1: id: not a text; found True"),
    ('{"query": "a"}\n{"query": "a", "count": 100000000000000000000}\n', ":2: count: not a count; found 1000"),
    ('{"query": "a", "count": 9223372036854775808}\n', "a whole number from 0 to 9223372036854775807"),
    ('{"query": "a", "count": 9223372036854775807}\n{"query": "b"}\n', ":2: count: the counts add up to more than"),
    ('{"query": "a", "count": "²"}\n', ":1: count: not a count; found '²'"),
    ('{"query": "a", "count": "1e3"}\n', ":1: count: not a count; found '1e3'"),
    ('{"query": "a", "count": 1e3}\n', ":1: count: not a count; found 1000.0"),
    ('{"query": "a", "count": NaN}\n', ":1: count: not a count; found nan"),
    ('{"query": "a", "count": "' + "9" * 5000 + '"}\n', ":1: count: not a count; found '999"),
    ('{"query": "a", "count": ' + "9" * 5000 + "}\n", ":1: not JSON: Exceeds the limit"),
    ('{"query": "a", "n": ' + "[" * 10_000 + "]" * 10_000 + "}\n", ":1: not JSON: nested too deeply"),
    ('{"query": "ok"}\n{"query": "milk \\ud83e"}\n', ":2: query: half a character (a lone surrogate)"),
    ('{"query": "milk", "id": "\\udd5b1"}\n', ":1: id: half a character (a lone surrogate)"),
    ('{"query": "a", "id": "x"}\n{"query": "b", "id": "x"}\n', ":2: id: duplicate id; found 'x'"),
])
def test_bad_query_files(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path / "q.jsonl", text)
    with pytest.raises(InputError) as caught:
        read_queries(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_not_utf8_names_line_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes('{"query": "a"}\n{"query": "café"}\n'.encode("latin1"))
    with pytest.raises(InputError, match=r"q\.jsonl:2: not UTF-8.*iconv"):
        read_queries(path)


def test_a_table_that_the_ledger_exported_has_no_column_that_is_no_use(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    row = {"query": "oat milk", "labels": [{"role": "product", "text": "milk"}], "count": 1, "status": "accepted",
           "reason": "", "confidence": 0.9, "request": "a1"}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    assert read_queries(tmp_path / "q.jsonl")
    assert [str(w.message) for w in recwarn if "not read" in str(w.message)] == []


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file\. Check the path$"):
        read_queries(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"unknown kind of file.*\.xlsx.*\.jsonl"):
        read_queries(write(tmp_path / "q.xlsx", "x"))
    with pytest.raises(InputError, match="not Parquet"):
        read_queries(write(tmp_path / "q.parquet", "x"))


@pytest.mark.parametrize(("row", "expected"), [
    ({"query": "oat milk", "labels": [{"role": "brnd", "text": "oat"}]}, "unknown role 'brnd'; the task has: brand"),
    ({"query": "oat milk", "labels": [{"role": "brand", "text": "oatly"}]}, "'oatly' of role 'brand' does not occur"),
    ({"query": "oat milk", "labels": [{"role": "aisle", "text": "pets"}]}, "expected one of: dairy, drinks"),
    ({"query": "oat milk", "labels": [{"role": "brand", "text": "oat", "start": 1, "end": 4}]}, "is not 'oat'"),
    ({"query": "oat milk", "labels": [{"role": "brand", "text": "oat"}] * 2}, "does not occur again"),
    ({"query": "oat milk", "labels": [{"text": "oat"}]}, "not a label"),
    ({"query": "oat milk"}, "labels: field is missing; found ['query']"),
    ({"query": "oat milk", "lables": []}, "Rename the column 'lables' to 'labels'"),
    ({"query": "oat \ud83e", "labels": [{"role": "brand", "text": "oat"}]}, "query: half a character"),
    ({"query": "oat milk", "labels": [{"role": "brand", "text": "\ud83e"}]}, "labels.0: half a character"),
    ({"query": "oat milk", "labels": [{"role": "\ud83e", "text": "oat"}]}, "labels.0: half a character"),
    ({"query": "x" * 10_000, "labels": []}, "10000 characters long"),
])
def test_bad_labels(tmp_path: Path, task: Task, row: dict[str, object], expected: str) -> None:
    path = write(tmp_path / "gold.jsonl", json.dumps({"query": "ok", "labels": []}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError) as caught:
        read_labels(path, task)
    assert "gold.jsonl:2" in str(caught.value)
    assert expected in str(caught.value)


def test_without_offsets_the_first_occurrences_count(tmp_path: Path, task: Task) -> None:
    row = {"query": "milk and milk", "labels": [{"role": "product", "text": "milk"}] * 2}
    (found,) = read_labels(write(tmp_path / "g.jsonl", json.dumps(row)), task)
    assert [(x.start, x.end) for x in found.labels] == [(0, 4), (9, 13)]


def test_catalogue_and_conversions(tmp_path: Path) -> None:
    item = {
        "id": 7, "title": "Oat milk", "brand": "Oatly", "category": "Dairy > Oat milk", "attributes": {"size": "1 l"}
    }
    (found,) = read_catalogue(write(tmp_path / "c.jsonl", json.dumps(item)))
    fields = ("brand", "category.root", "category.leaf", "attributes.size", "attributes.x")
    values = {f: found.values(f) for f in fields}
    assert values == {"brand": ("Oatly",), "category.root": ("Dairy",), "category.leaf": ("Oat milk",),
                      "attributes.size": ("1 l",), "attributes.x": ()}
    rows = [{"query": "oat", "item_id": "7", "count": 2}, {"query": "oat", "item_id": "gone"}]
    path = write(tmp_path / "v.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    with pytest.warns(InputWarning, match=r"1 of 2 conversions are of items that .* left out; .*\['gone'\].*\['7'\]"):
        assert [(c.item_id, c.count) for c in read_conversions(path, {found.id: found})] == [("7", 2)]


@pytest.mark.parametrize(("id_", "item", "why"), [
    ("123", "00123", "leading zeros were lost"), ("123.0", "123", "floating numbers"),
    ("ab ", "AB", "blanks or capitals"), ("x", "y", None), ("x", None, "a catalogue that has items"),
])
def test_conversions_of_no_item_at_all_are_refused(tmp_path: Path, id_: str, item: str | None, why: str | None) -> None:
    path = write(tmp_path / "v.csv", f"query,item_id,count\noat,{id_},3\nrye,{id_},1\n")
    with pytest.raises(InputError) as caught:
        read_conversions(path, {} if item is None else {item: None})
    said = str(caught.value)
    assert f"2 of 2 conversions are of items that the catalogue does not have; found ['{id_}']" in said
    assert ("would meet" in said) == (item is not None and why is not None)
    assert why is None or why in said


OFFSETS = "start and end of the text in characters"


@pytest.mark.parametrize(("place", "said"), [
    ({"text": "milk", "start": 4, "end": 99}, "[4:99] is not inside the query 'oat milk' of 8 characters"),
    ({"text": "oat", "start": -8, "end": -5}, "[-8:-5] is not inside"),
    ({"text": "oat", "start": 0, "end": -5}, "[0:-5] is not inside"),
    ({"text": "milk", "start": 4}, "end is None, not a whole number"),
    ({"text": "milk", "end": 8}, "start is None, not a whole number"),
    ({"text": "at milk", "start": True, "end": 8}, "start is True, not a whole number"),
    ({"text": "o", "start": 0, "end": True}, "end is True, not a whole number"),
    ({"text": "oat", "start": 0.0, "end": 3.0}, "start is 0.0, not a whole number"),
    ({"text": "oat", "start": "0", "end": "3"}, "start is '0', not a whole number"),
    ({"text": "oat", "start": 0, "end": 2}, "`end` is one past the last character"),
    ({"text": "oat", "start": 1, "end": 3}, "`start` is counted from 0"),
])
def test_offsets_are_those_of_the_text(tmp_path: Path, task: Task, place: dict[str, object], said: str) -> None:
    row = {"query": "oat milk", "labels": [{"role": "product", **place}]}
    with pytest.raises(InputError) as caught:
        read_labels(write(tmp_path / "g.jsonl", json.dumps(row)), task)
    assert "g.jsonl:1: labels.0: " in str(caught.value)
    assert OFFSETS in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(("start", "end", "unit"), [(3, 7, "UTF-16 units"), (5, 9, "bytes"), (2, 6, None)])
def test_offsets_that_count_something_else_are_named(
    tmp_path: Path, task: Task, start: int, end: int, unit: str | None
) -> None:
    label = {"role": "product", "text": "milk", "start": start, "end": end}
    path = write(tmp_path / "g.jsonl", json.dumps({"query": "🥛 milk", "labels": [label]}))
    if unit is None:
        (found,) = read_labels(path, task)
        assert found.labels[0].start == start
    else:
        with pytest.raises(InputError, match=f"These count {unit}"):
            read_labels(path, task)


def test_an_edited_text_needs_no_offsets_and_the_error_of_its_old_ones_says_so(tmp_path: Path, task: Task) -> None:
    query, label = "oatly wheelset", {"role": "product", "text": "wheels", "start": 6, "end": 14}
    path = write(tmp_path / "g.jsonl", json.dumps({"query": query, "labels": [label]}))
    with pytest.raises(InputError, match=r"is 'wheelset', it is not 'wheels'.*edited, leave out both start and end"):
        read_labels(path, task)
    edited = {"role": "product", "text": "oatly"}
    write(path, json.dumps({"query": query, "labels": [edited]}))
    assert read_labels(path, task)[0].labels[0].start == 0


def test_columns_that_nobody_reads_are_named_once(tmp_path: Path, task: Task) -> None:
    path = write(tmp_path / "q.csv", ",query,Cuont,shop\n0,oat,7,8\n1,rye,7,8\n")
    with pytest.warns(InputWarning) as told:
        assert [q.count for q in read_queries(path)] == [1, 1]
    (only,) = told
    assert "q.csv: columns not read: Cuont, shop; expected query, count, id" in str(only.message)
    assert "'Cuont' is probably meant as 'count'" in str(only.message)
    label = {"role": "product", "text": "milk", "start_offset": 9, "end_offset": 13}
    path = write(tmp_path / "g.jsonl", json.dumps({"query": "milk and milk", "labels": [label], "shop": 1}))
    with pytest.warns(InputWarning) as told:
        read_labels(path, task)
    assert [str(w.message).split(": ", 1)[1].split(";")[0] for w in told] == [
        "columns not read: shop", "keys of labels not read: start_offset, end_offset"
    ]
    items = write(tmp_path / "c.csv", "id,title,Brand,price\n1,Oat,Oatly,3\n")
    with pytest.warns(InputWarning, match="columns not read: Brand, price;.*'Brand' is probably meant as 'brand'"):
        read_catalogue(items)


def test_columns_that_are_read_or_our_own_are_not_named(
    tmp_path: Path, task: Task, recwarn: pytest.WarningsRecorder
) -> None:
    label = {"role": "product", "text": "oat", "start": 0, "end": 3}
    row = {"query": "oat", "count": 1, "status": "accepted", "reason": "", "confidence": 1.0, "labels": [label]}
    row["shop"] = 1
    path = write(tmp_path / "g.jsonl", json.dumps(row))
    read_labels(path, task, columns=["shop"])
    del row["shop"]
    read_queries(write(path, json.dumps(row)))
    assert not list(recwarn)


def test_rows_of_a_labelling_job_without_labels_are_left_out_and_told(tmp_path: Path, task: Task) -> None:
    kinds = [("accepted", [{"role": "product", "text": "oat"}]), ("failed", []), ("skipped", []), ("partial", [])]
    rows = [{"query": f"oat {n}", "status": s, "labels": x} for n, (s, x) in enumerate(kinds)]
    path = write(tmp_path / "labels.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    with pytest.warns(InputWarning) as told:
        assert [x.query for x in read_labels(path, task)] == ["oat 0", "oat 3"]
    left, unsure = (str(w.message) for w in told)
    assert "2 of 4 rows have no labels, for so says their status; they are left out" in left
    assert "1 rows have the status partial or uncertain" in unsure
    with pytest.raises(InputError, match="1 of 1 rows have no labels"):
        read_labels(write(path, json.dumps(rows[1])), task)


@pytest.mark.parametrize("status", ["acepted", "done", "no", "accepted?"])
def test_a_status_that_is_no_status_is_refused(tmp_path: Path, task: Task, status: str) -> None:
    """It would be learned as if somebody had checked it."""
    labels = [{"role": "product", "text": "oat"}]
    rows = [{"query": f"oat {n}", "status": s, "labels": labels} for n, s in enumerate(["", status])]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(InputError, match=r"labels.jsonl:2: status: unknown status; found .*; expected accepted, par"):
        read_labels(tmp_path / "labels.jsonl", task)


@pytest.mark.parametrize(("status", "doubt"), [("Partial", "partial"), (" uncertain ", "uncertain"), ("ACCEPTED", "")])
def test_a_status_is_read_in_any_case_and_with_blanks(tmp_path: Path, task: Task, status: str, doubt: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps({"query": "oat", "status": status, "labels": [{"role": "product", "text": "oat"}]}))
    (row,) = read_labels(path, task)
    assert row.doubt == doubt


def test_a_file_without_any_label_is_told(tmp_path: Path, task: Task) -> None:
    with pytest.warns(InputWarning, match=r"g\.jsonl: labels: no row has a label"):
        read_labels(write(tmp_path / "g.jsonl", json.dumps({"query": "oat", "labels": []})), task)


@pytest.mark.parametrize(("item", "field"), [
    ({"id": "1", "title": "Milk \ud83e"}, "title"), ({"id": "\ud83e", "title": "Milk"}, "id"),
    ({"id": "1", "title": "Milk", "brand": "\ud83e"}, "brand"),
    ({"id": "1", "title": "Milk", "attributes": {"size": "1 \ud83e"}}, "attributes.size"),
    ({"id": "1", "title": "Milk", "attributes": {"\ud83e": "1 l"}}, "attributes"),
])
def test_half_characters_in_a_catalogue(tmp_path: Path, item: dict[str, object], field: str) -> None:
    path = write(tmp_path / "c.jsonl", json.dumps({"id": "0", "title": "ok"}) + "\n" + json.dumps(item) + "\n")
    with pytest.raises(InputError, match=rf"c\.jsonl:2: {field}: half a character") as caught:
        read_catalogue(path)
    assert str(caught.value).encode()


def test_conversions_that_add_up_to_more_than_64_bits(tmp_path: Path) -> None:
    row = {"query": "oat", "item_id": "7", "count": 2**62}
    path = write(tmp_path / "v.jsonl", (json.dumps(row) + "\n") * 2)
    with pytest.raises(InputError, match=r"v\.jsonl:2: count: the counts add up to more than"):
        read_conversions(path, {"7": None})
    half = write(tmp_path / "h.jsonl", json.dumps({"query": "\ud83e", "item_id": "7"}))
    with pytest.raises(InputError, match=r"h\.jsonl:1: query: half a character"):
        read_conversions(half, {"7": None})


def test_half_characters_in_a_csv_cell_that_holds_json(tmp_path: Path, task: Task) -> None:
    cell = '[{""role"": ""brand"", ""text"": ""\\ud83e""}]'
    path = write(tmp_path / "g.csv", f'query,labels\noat milk,"{cell}"\n')
    with pytest.raises(InputError, match=r"g\.csv:2: labels\.0: half a character"):
        read_labels(path, task)


def test_a_half_character_in_a_column_that_nobody_reads_is_no_error(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", json.dumps({"query": "milk", "session": "\ud83e"}))
    assert [q.query for q in read_queries(path)] == ["milk"]


@pytest.mark.parametrize("raw", [
    b'\xef\xbb\xbf{"query": "a"}\r\n\r\n{"query": "b"}\r\n\r\n', b'\xef\xbb\xbf\n{"query": "a"}\n{"query": "b"}',
    b'{"query": "a"}\n\xef\xbb\xbf{"query": "b"}\n \t\n',
])
def test_blank_lines_crlf_and_byte_order_marks_are_no_rows(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(raw)
    assert [q.query for q in read_queries(path)] == ["a", "b"]


@pytest.mark.parametrize("name", ["q.jsonl", "q.csv", "q.parquet"])
def test_line_separators_inside_a_query_do_not_end_it(tmp_path: Path, name: str) -> None:
    texts = ["rice\u2028milk", "oat\u0085milk", "soy\u2029milk", "a\x0bb\x0cc\x1cd"]
    path = tmp_path / name
    if name == "q.jsonl":
        write(path, "".join(json.dumps({"query": t}, ensure_ascii=False) + "\n" for t in texts))
    elif name == "q.csv":
        write(path, "query\n" + "".join(f'"{t}"\n' for t in texts))
    else:
        pq.write_table(pa.Table.from_pylist([{"query": t} for t in texts]), path)
    assert [q.query for q in read_queries(path)] == texts


@pytest.mark.parametrize("value", [["red", "blue"], {"en": "red"}, []])
def test_an_attribute_of_several_values_is_refused(tmp_path: Path, value: object) -> None:
    item = {"id": 1, "title": "a", "attributes": {"size": 2, "colour": value}}
    with pytest.raises(InputError, match=r"c\.jsonl:1: attributes\.colour: not a single value") as caught:
        read_catalogue(write(tmp_path / "c.jsonl", json.dumps(item)))
    assert str(value) in str(caught.value)

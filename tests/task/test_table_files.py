"""Every kind of file, folder and encoding gives the same rows, or an error that says what to do."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from task.errors import InputError, InputWarning
from task.readers import read_labels, read_queries
from task.spec import Task

ROWS = [{"query": "café", "count": 3}, {"query": "oat\u2028milk", "count": 1}]


@pytest.fixture(autouse=True)
def _no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        yield


def queries(path: Path | str) -> list[tuple[str, int]]:
    return [(q.query, q.count) for q in read_queries(path)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_with_and_without_a_byte_order_mark(tmp_path: Path, encoding: str, newline: str) -> None:
    lines = "".join(json.dumps(r, ensure_ascii=False) + newline for r in ROWS)
    (tmp_path / "q.jsonl").write_bytes(lines.encode(encoding))
    cells = newline.join(["query,count", "café,3", "oat\u2028milk,1", ""])
    (tmp_path / "q.csv").write_bytes(cells.encode(encoding))
    wanted = [("café", 3), ("oat\u2028milk", 1)]
    assert queries(tmp_path / "q.jsonl") == queries(tmp_path / "q.csv") == wanted


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(("name", "text"), [("q.jsonl", '{"query": "a"}\n'), ("q.csv", "query\na\n")])
def test_utf16_without_a_mark_is_named(tmp_path: Path, encoding: str, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match=rf"{name}:1: not UTF-8.*iconv -f {encoding.replace('6-', '6')} -t utf-8"):
        queries(tmp_path / name)


def test_latin1_in_a_csv_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_bytes("query\ncafé\n".encode("latin1"))
    with pytest.raises(InputError, match=r"not UTF-8.*iconv -f latin1"):
        queries(tmp_path / "q.csv")


def test_a_truncated_utf16_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes('{"query": "a"}\n{"query": "b"}\n'.encode("utf-16")[:-5])
    with pytest.raises(InputError, match=r"q\.jsonl"):
        queries(tmp_path / "q.jsonl")


def test_blanks_in_a_header_belong_to_no_name(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("query, count ,id\t\noat, 7,x\n")
    pq.write_table(pa.table({" query": ["oat"], "count ": [7], "id": ["x"]}), tmp_path / "q.parquet")
    for path in (tmp_path / "q.csv", tmp_path / "q.parquet"):
        assert [(q.query, q.count, q.id) for q in read_queries(path)] == [("oat", 7, "x")]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("query,count, count\noat,7,8\n")
    with pytest.raises(InputError, match=r"q\.csv:1: two columns are called 'count'"):
        queries(tmp_path / "q.csv")
    pq.write_table(pa.table([["oat"], [7], [8]], names=["query", "count", "count"]), tmp_path / "q.parquet")
    with pytest.raises(InputError, match="two columns are called 'count'"):
        queries(tmp_path / "q.parquet")


def test_tabs_separate_the_cells_of_a_tsv_file(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text('query\tcount\noat, 2%\t7\n12" pizza\t3\n"a\tb"\t1\n')
    assert queries(tmp_path / "q.tsv") == [("oat, 2%", 7), ('12" pizza', 3), ("a\tb", 1)]
    (tmp_path / "one.tsv").write_text("query\noat\n")
    assert queries(tmp_path / "one.tsv") == [("oat", 1)]
    (tmp_path / "short.tsv").write_text("query\tcount\noat\n")
    with pytest.raises(InputError, match=r"short\.tsv:2: wrong number of columns"):
        queries(tmp_path / "short.tsv")


def test_semicolons_are_named(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("query;count\noat;7\n")
    with pytest.raises(InputError, match=r"one column; found 'query;count'.*commas in place of semicolons"):
        queries(tmp_path / "q.csv")


def test_brackets_in_a_text_column_are_text_and_json_in_a_column_of_lists(tmp_path: Path, task: Task) -> None:
    (tmp_path / "q.csv").write_text('query,count\n[2024],2\n{},3\n"[1, 2]",4\n')
    assert queries(tmp_path / "q.csv") == [("[2024]", 2), ("{}", 3), ("[1, 2]", 4)]
    cell = json.dumps([{"role": "product", "text": "[2024]"}]).replace('"', '""')
    (tmp_path / "g.csv").write_text(f'query,labels\n[2024],"{cell}"\n')
    (found,) = read_labels(tmp_path / "g.csv", task)
    assert [(x.role, x.text, x.start) for x in found.labels] == [("product", "[2024]", 0)]
    (tmp_path / "r.csv").write_text("query,labels\noat,\"[{'role': 'product', 'text': 'oat'}]\"\n")
    with pytest.raises(InputError, match=r"r\.csv:2: labels: not a list.*json\.dumps, not with str"):
        read_labels(tmp_path / "r.csv", task)


@pytest.mark.parametrize("count", ["²", "三", "1.5", "-1", "1e3"])
def test_what_is_no_whole_number_is_not_a_count(tmp_path: Path, count: str) -> None:
    (tmp_path / "q.csv").write_text(f"query,count\noat,{count}\n")
    with pytest.raises(InputError, match=r"q\.csv:2: count: not a count; found"):
        queries(tmp_path / "q.csv")


def parts(folder: Path) -> Path:
    folder.mkdir()
    for n, row in enumerate(ROWS):
        pq.write_table(pa.Table.from_pylist([row]), folder / f"part-0000{n}-c000.snappy.parquet")
    for mark in ("_SUCCESS", "_metadata", ".part-00000-c000.snappy.parquet.crc", "._SUCCESS.crc"):
        (folder / mark).write_bytes(b"not parquet")
    return folder


@pytest.mark.parametrize("name", ["q.parquet", "q"])
def test_a_folder_that_spark_wrote_is_one_table(tmp_path: Path, name: str) -> None:
    assert queries(parts(tmp_path / name)) == [("café", 3), ("oat\u2028milk", 1)]


def test_a_folder_that_dask_or_pyarrow_partitioned_keeps_the_columns_of_its_folders(tmp_path: Path) -> None:
    table = pa.table({"query": ["a", "b"], "count": [2, 5]})
    pq.write_to_dataset(table, tmp_path / "q.parquet", partition_cols=["count"])
    assert sorted(queries(tmp_path / "q.parquet")) == [("a", 2), ("b", 5)]


def test_folders_of_text_files_number_lines_within_each_file(tmp_path: Path) -> None:
    folder = tmp_path / "q.csv"
    folder.mkdir()
    (folder / "part-0.csv").write_text("query,count\noat,2\n")
    (folder / "part-1.csv").write_text("query,count\nrye,x\n")
    with pytest.raises(InputError, match=r"part-1\.csv:2: count: not a count"):
        queries(folder)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="the folder holds no rows"):
        queries(tmp_path / "empty")
    folder = parts(tmp_path / "q.parquet")
    (folder / "more.csv").write_text("query\nx\n")
    with pytest.raises(InputError, match="files of several kinds in one folder"):
        queries(folder)
    (folder / "more.csv").rename(folder / "more.csv.gz")
    with pytest.raises(InputError, match=r"more\.csv\.gz: unknown kind of file"):
        queries(folder)


NAMES = ["O", "B-brand", "I-brand", "B-product"]


def saved(folder: Path, features: dict[str, Any], columns: dict[str, list[Any]]) -> str:
    table = datasets.Dataset.from_dict(columns, datasets.Features(features))
    datasets.DatasetDict({"train": table}).save_to_disk(str(folder))
    table.to_parquet(str(folder / "table.parquet"))
    return f"hub:{folder}:train"


def test_numbers_of_classes_are_read_by_name_also_from_parquet(tmp_path: Path, task: Task) -> None:
    """`datasets` 5.2 keeps the names in the Parquet file's schema, where other readers see numbers only."""
    tokens = datasets.List(datasets.Value("string"))
    source = saved(tmp_path / "hub", {"tokens": tokens, "ner_tags": datasets.List(datasets.ClassLabel(names=NAMES))},
                   {"tokens": [["oat", "y", "milk"]], "ner_tags": [[1, 2, 3]]})
    for path in (source, tmp_path / "hub" / "table.parquet"):
        (found,) = read_labels(path, task)
        assert [(x.role, x.text) for x in found.labels] == [("brand", "oat y"), ("product", "milk")]


def test_roles_that_are_classes_and_labels_as_a_mapping_of_lists(tmp_path: Path, task: Task) -> None:
    """`datasets` 5.2 makes a mapping of lists of `Sequence({…})`, and a list of mappings of `List({…})`."""
    label = {"role": datasets.ClassLabel(names=["brand", "product"]), "text": datasets.Value("string")}
    text = datasets.Value("string")
    one = saved(tmp_path / "a", {"query": text, "labels": datasets.Sequence(label)},
                {"query": ["oat milk"], "labels": [{"role": [0, 1], "text": ["oat", "milk"]}]})
    two = saved(tmp_path / "b", {"query": text, "labels": datasets.List(label)},
                {"query": ["oat milk"], "labels": [[{"role": 0, "text": "oat"}, {"role": 1, "text": "milk"}]]})
    for source in (one, two):
        (found,) = read_labels(source, task)
        assert [(x.role, x.text) for x in found.labels] == [("brand", "oat"), ("product", "milk")]


def test_a_number_without_a_class_is_refused_with_its_row(tmp_path: Path, task: Task) -> None:
    """-1 is how `datasets` marks a class that is withheld."""
    tokens = datasets.List(datasets.Value("string"))
    source = saved(tmp_path / "hub", {"tokens": tokens, "ner_tags": datasets.List(datasets.ClassLabel(names=NAMES))},
                   {"tokens": [["a"], ["b"]], "ner_tags": [[0], [-1]]})
    with pytest.raises(InputError, match=r"hub:train:2: ner_tags: not a class of the column"):
        read_labels(source, task)


def test_numbers_without_names_are_refused_with_what_to_do(tmp_path: Path, task: Task) -> None:
    source = saved(tmp_path / "hub", {"tokens": datasets.List(datasets.Value("string")),
                                      "ner_tags": datasets.List(datasets.Value("int64"))},
                   {"tokens": [["oat"]], "ner_tags": [[1]]})
    with pytest.raises(InputError, match=r"hub:train:1: ner_tags\.0: unknown tag; found 1;.*ClassLabel"):
        read_labels(source, task)


def test_tokens_and_tags_in_json_lines(tmp_path: Path, task: Task) -> None:
    (tmp_path / "g.jsonl").write_text(json.dumps({"tokens": ["oat", "milk"], "tags": ["U-brand", "U-product"]}) + "\n")
    (found,) = read_labels(tmp_path / "g.jsonl", task)
    assert [(x.role, x.text) for x in found.labels] == [("brand", "oat"), ("product", "milk")]


def test_files_that_datasets_passes_over_are_named(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load_dataset` (datasets 5.2) reads only files with a split's word as soon as one file's name has one."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    (tmp_path / "train.jsonl").write_text('{"query": "a"}\n')
    assert queries(f"hub:{tmp_path}:train") == [("a", 1)]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "queries.jsonl").write_text('{"query": "b"}\n')
    (tmp_path / "README.md").write_text("# A card\n")
    with pytest.warns(InputWarning, match=r"1 data files of dataset .* belong to no split.*more/queries\.jsonl"):
        assert queries(f"hub:{tmp_path}:train") == [("a", 1)]


def test_one_table_without_splits_is_told(tmp_path: Path) -> None:
    """It would be training and test data alike."""
    datasets.Dataset.from_dict({"query": ["a"]}).save_to_disk(str(tmp_path / "hub"))
    with pytest.warns(InputWarning, match="one table without a name of its split; it is read as 'test'"):
        assert queries(f"hub:{tmp_path / 'hub'}:test") == [("a", 1)]

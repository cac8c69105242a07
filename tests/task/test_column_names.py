"""Columns have many names: counts are read under all of them, queries in a log; other tables say what to rename."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from task.errors import InputError, InputWarning
from task.readers import read_conversions, read_labels, read_queries
from task.spec import Task


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["searchTerm", "search_phrase", "Query", "Search Query", "keyword"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_the_column_of_queries_may_have_another_name_and_cells_without_text(
    tmp_path: Path, name: str, kind: str
) -> None:
    path = tmp_path / f"q.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({name: ["oat milk", None, "rye"], "count": [3, 2, 1]}), path)
    elif kind == "jsonl":
        rows = [{name: q, "count": c} for q, c in (("oat milk", 3), (None, 2), ("rye", 1))]
        write(path, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        write(path, f"{name},count\noat milk,3\n,2\nrye,1\n".replace(",", "," if kind == "csv" else "\t"))
    with pytest.warns(InputWarning) as told:
        assert [(q.query, q.count) for q in read_queries(path)] == [("oat milk", 3), ("", 2), ("rye", 1)]
    line = {"csv": 3, "tsv": 3}.get(kind, 2)
    assert [str(w.message).split(": ", 1)[1].split(";")[0] for w in told] == [
        f"query: the queries are those of the column {name!r}", f"query: 1 queries have no text (lines {line})"
    ]


def test_a_column_called_query_is_the_one_whatever_else_there_is(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = write(tmp_path / "q.csv", "search_term,query\nrye,oat\n")
    assert [q.query for q in read_queries(path)] == ["oat"]
    assert [str(w.message) for w in recwarn if "those of the column" in str(w.message)] == []


def test_labels_and_conversions_name_the_column_to_rename(tmp_path: Path, task: Task) -> None:
    label = json.dumps({"searchTerm": "oat", "labels": [{"role": "product", "text": "oat"}]})
    with pytest.raises(InputError, match=r"query: field is missing; .*Rename the column 'searchTerm' to 'query'"):
        read_labels(write(tmp_path / "g.jsonl", label), task)
    with pytest.raises(InputError, match="Rename the column 'Search Query' to 'query'"):
        read_conversions(write(tmp_path / "v.csv", "Search Query,item_id\noat,1\n"), {"1": None})
    with pytest.warns(InputWarning, match=r"v\.csv: query: 1 queries have no text \(lines 3\)"):
        assert len(read_conversions(write(tmp_path / "v.csv", "query,item_id\noat,1\n,1\n"), {"1": None})) == 2


@pytest.mark.parametrize("name", ["frequency", "Search Count", "n_searches", "hits"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_column_of_counts_may_have_another_name(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / f"q.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"search_term": ["oat milk", "rye"], name: [3, 1]}), path)
    elif kind == "jsonl":
        rows = [{"search_term": "oat milk", name: 3}, {"search_term": "rye"}]
        write(path, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        write(path, f"search_term,{name}\noat milk,3\nrye,1\n")
    with pytest.warns(InputWarning) as told:
        assert [(q.query, q.count) for q in read_queries(path)] == [("oat milk", 3), ("rye", 1)]
    assert [str(w.message).split(": ", 1)[1] for w in told] == [
        "query: the queries are those of the column 'search_term'",
        f"count: the counts are those of the column {name!r}",
    ]


def test_counts_of_labels_and_purchases_may_have_another_name_too(tmp_path: Path, task: Task) -> None:
    label = json.dumps({"query": "oat", "frequency": 7, "labels": [{"role": "product", "text": "oat"}]})
    with pytest.warns(InputWarning, match="count: the counts are those of the column 'frequency'"):
        assert [x.count for x in read_labels(write(tmp_path / "g.jsonl", label), task)] == [7]
    with pytest.warns(InputWarning, match="count: the counts are those of the column 'orders'"):
        found = read_conversions(write(tmp_path / "v.csv", "query,item_id,orders\noat,1,4\n"), {"1": None})
    assert [x.count for x in found] == [4]


def test_count_is_the_column_of_counts_where_there_is_one_and_no_other_than_whole_numbers_are(tmp_path: Path) -> None:
    with pytest.warns(InputWarning, match="columns not read: frequency"):
        assert read_queries(write(tmp_path / "q.csv", "query,frequency,count\noat,9,2\n"))[0].count == 2
    with pytest.warns(InputWarning, match="columns not read: frequency"):
        assert read_queries(write(tmp_path / "q.csv", "query,frequency\noat,0.3\n"))[0].count == 1

"""Readers for the four tables: queries, labels, catalogue, conversions.

JSON lines, CSV and Parquet files, and `datasets` repositories (by name, or saved on disk). A malformed row is an
error that names file, line and field; rows are never skipped silently.
"""

from __future__ import annotations

import codecs
import csv
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from task.errors import InputError
from task.fields import Fields, Row, Total, Unique
from task.labels import Example, Label, locate, ordered
from task.spec import Task


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the catalogue."""

    id: str
    title: str
    brand: str | None = None
    category: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    def values(self, source: str) -> tuple[str, ...]:
        """The values of a catalogue field: `brand`, `category[.root|.leaf]`, `attributes.NAME`."""
        if source == "brand":
            value = self.brand
        elif source.startswith("category"):
            path = [p.strip() for p in (self.category or "").split(">")]
            value = {"category": self.category, "category.root": path[0], "category.leaf": path[-1]}[source]
        else:
            value = self.attributes.get(source.removeprefix("attributes."))
        return (value,) if value else ()


@dataclass(frozen=True, slots=True)
class Conversion:
    """How often a query led to an item."""

    query: str
    item_id: str
    count: int


def rows_of(source: Path | str) -> Iterator[tuple[int, Row]]:
    """Rows of a file with their line (or row) numbers from 1.

    Args:
        source: A path ending in .jsonl, .csv or .parquet, or `hub:REPOSITORY:SPLIT`.

    Raises:
        InputError: The file is missing, unreadable, malformed or empty.
    """
    if isinstance(source, str) and source.startswith("hub:"):
        return _hub_rows(source)
    path = Path(source)
    readers: dict[str, Callable[[Path], Iterator[tuple[int, Row]]]] = {
        ".jsonl": _jsonl, ".json": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".parquet": _parquet,
    }
    if not path.exists():
        raise InputError("no such file", file=path, fix="Check data.dir and the file names in the task file")
    if path.suffix not in readers:
        raise InputError("unknown kind of file", file=path, found=path.suffix, expected=f"one of: {', '.join(readers)}")
    return _not_empty(path, readers[path.suffix](path))


def _not_empty(path: Path, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
    empty = True
    try:
        for row in rows:
            empty = False
            yield row
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from error
    if empty:
        raise InputError("the file holds no rows", file=path, expected="at least one row")


def _jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            raw = raw.removeprefix(codecs.BOM_UTF8)  # of the file, or of a file that was appended to it
            if not raw.strip():
                continue
            try:
                row = json.loads(raw.decode())
            except UnicodeDecodeError as error:
                raise InputError(
                    "not UTF-8", file=path, line=number, found=raw[error.start : error.end],
                    fix="Convert the file, for instance with `iconv -f latin1 -t utf-8`",
                ) from error
            except json.JSONDecodeError as error:
                raise InputError(
                    f"not JSON: {error.msg} at column {error.colno}", file=path, line=number,
                    found=raw.decode(errors="replace").strip(), expected="one JSON object a line",
                ) from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
                problem = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]
                raise InputError(f"not JSON: {problem}", file=path, line=number) from error
            if not isinstance(row, dict):
                raise InputError("not an object", file=path, line=number, found=row, expected="one JSON object a line")
            yield number, row


def _csv(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(
                        "wrong number of columns", file=path, line=reader.line_num,
                        expected=f"{len(reader.fieldnames or ())}: {', '.join(reader.fieldnames or ())}",
                    )
                yield reader.line_num, {k: _json_cell(v) for k, v in row.items() if v != ""}
        except UnicodeDecodeError as error:
            raise InputError("not UTF-8", file=path, line=reader.line_num + 1) from error
        except csv.Error as error:
            raise InputError(f"not CSV: {error}", file=path, line=reader.line_num) from error


def _json_cell(text: str) -> Any:
    """The value of a CSV cell; lists and mappings are written as JSON."""
    if text[:1] in "[{":
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"not Parquet: {error}", file=path) from error
    number = 0
    for batch in table.iter_batches(batch_size=8192):
        for row in batch.to_pylist():
            number += 1
            yield number, {k: v for k, v in row.items() if v is not None}


def _hub_rows(source: str) -> Iterator[tuple[int, Row]]:
    import datasets

    _, name, split = source.split(":", 2)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        if Path(name).is_dir():
            loaded = datasets.load_from_disk(name)
            table = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            table = datasets.load_dataset(name, split=split)
    except Exception as error:  # the library raises many kinds of exceptions for a missing repository or network
        raise InputError(
            f"cannot load split {split!r} of dataset {name!r}: {type(error).__name__}: {error}",
            field="data.hub",
            fix="Check the name and the network, or use local files with --set data.dir=DIR",
        ) from error
    tags = _tag_names(table.features)
    for number, row in enumerate(table, 1):
        yield number, _from_tags(row, tags) if tags is not None else row


def _tag_names(features: Mapping[str, Any]) -> Callable[[Any], str] | None:
    """For datasets of tokens and tags: the function from a tag to its name."""
    if "tokens" not in features:
        return None
    column = next((c for c in ("ner_tags", "tags", "labels") if c in features), None)
    if column is None:
        return None
    inner = getattr(features[column], "feature", None)
    convert = getattr(inner, "int2str", None)
    return (lambda tag: str(convert(tag))) if convert else str


def _from_tags(row: Row, name: Callable[[Any], str]) -> Row:
    """A row of tokens and BIO (IOB2) tags as query and labels."""
    tokens = [str(t) for t in row["tokens"]]
    tags = [name(t) for t in next(row[c] for c in ("ner_tags", "tags", "labels") if c in row)]
    spans: list[list[Any]] = []
    at = 0
    for token, tag in zip(tokens, tags, strict=True):
        kind, _, role = tag.partition("-")
        if kind == "I" and spans and spans[-1][0] == role and spans[-1][2] == at - 1:
            spans[-1][2] = at + len(token)
        elif kind in {"B", "I"}:
            spans.append([role, at, at + len(token)])
        at += len(token) + 1
    query = " ".join(tokens)
    return {"query": query, "labels": [{"role": r, "text": query[s:e], "start": s, "end": e} for r, s, e in spans]}


def read_queries(source: Path | str) -> list[Example]:
    """A query log: `{"query", "count" = 1, "id"?}`; the labels of the examples are empty."""
    out, ids, total = [], Unique(source, "id"), Total()
    for line, row in rows_of(source):
        f = Fields(source, line, row)
        id_ = f.optional("id")
        ids.add(id_, line)
        out.append(Example(f.text("query"), (), total.count(f), id_))
    return out


def read_labels(source: Path | str, task: Task) -> list[Example]:
    """Gold or imported labels: `{"query", "labels": [{"role", "text", "start"?, "end"?}]}`, checked against the task.

    Raises:
        InputError: A role or closed value that the task does not have, a text that does not occur, offsets that
            do not match the text, a duplicate id.
    """
    out, ids, total = [], Unique(source, "id"), Total()
    for line, row in rows_of(source):
        f = Fields(source, line, row)
        query = f.text("query")
        if len(query) > task.data.max_query_chars:
            raise f.error(
                "query", f"{len(query)} characters long", f"at most {task.data.max_query_chars}",
                fix="Remove the row, or raise data.max_query_chars",
            )
        id_ = f.optional("id")
        ids.add(id_, line)
        labels = row.get("labels")
        if not isinstance(labels, list):
            raise f.error("labels", "not a list", 'a list of {"role", "text"}')
        read = [_label(f, task, query, n, label) for n, label in enumerate(labels)]
        try:
            out.append(Example(query, ordered(locate_open(task, query, read)), total.count(f), id_))
        except ValueError as error:
            raise f.error("labels", str(error), found=labels, fix="A value must be words of its query") from error
    return out


def locate_open(task: Task, query: str, labels: list[Label]) -> tuple[Label, ...]:
    """`labels.locate` for the labels of open roles; those of closed roles are returned unchanged."""
    closed = {r.name for r in task.closed_roles}
    return (*locate(query, [x for x in labels if x.role not in closed]), *(x for x in labels if x.role in closed))


def _label(f: Fields, task: Task, query: str, number: int, raw: object) -> Label:
    name = f"labels.{number}"
    if not isinstance(raw, dict) or not isinstance(raw.get("role"), str) or not isinstance(raw.get("text"), str):
        raise f.error(name, "not a label", '{"role": text, "text": text, "start"?: int, "end"?: int}', found=raw)
    for text in (raw["role"], raw["text"]):
        f.whole(name, text)
    problem = task.label_problem(query, raw["role"], raw["text"])
    if problem:
        raise f.error(name, problem, found=raw)
    start, end = raw.get("start"), raw.get("end")
    if task.role(raw["role"]).kind == "closed" or start is None:
        return Label(raw["role"], raw["text"])
    if not isinstance(start, int) or query[start:end] != raw["text"]:
        raise f.error(name, f"[{start}:{end}] of {query!r} is not {raw['text']!r}", "offsets of the text", found=raw)
    return Label(raw["role"], raw["text"], start, end)


def read_catalogue(source: Path | str) -> list[Item]:
    """The catalogue: `{"id", "title", "brand"?, "category"?, "attributes"?: {name: value}}`."""
    out, ids = [], Unique(source, "id")
    for line, row in rows_of(source):
        f = Fields(source, line, row)
        attributes = row.get("attributes") or {}
        if isinstance(attributes, list):  # Arrow's map type
            attributes = dict(attributes)
        if not isinstance(attributes, dict):
            raise f.error("attributes", "not a mapping", "{name: value}")
        id_ = f.optional("id")
        if id_ is None:
            raise f.error("id", "field is missing", "a unique id", found=sorted(map(str, row)))
        ids.add(id_, line)
        plain = {
            f.whole("attributes", str(k)): f.whole(f"attributes.{k}", str(v))
            for k, v in attributes.items() if v is not None
        }
        out.append(Item(id_, f.text("title"), f.optional("brand"), f.optional("category"), plain))
    return out


def read_conversions(source: Path | str, items: Mapping[str, Any]) -> list[Conversion]:
    """Conversions: `{"query", "item_id", "count" = 1}`; rows of items that are not in the catalogue are skipped."""
    out, total = [], Total()
    for line, row in rows_of(source):
        f = Fields(source, line, row)
        item_id = f.optional("item_id")
        if item_id is None:
            raise f.error("item_id", "field is missing", "an item's id", found=sorted(map(str, row)))
        if item_id in items:
            out.append(Conversion(f.text("query"), item_id, total.count(f)))
    return out

"""Readers for the four tables: queries, labels, catalogue, conversions, from every source of `task.table_files`.

A malformed row is an error that names file, line and field. What is left out (rows, columns, keys of labels) is told
with its number and the reason, as a `task.errors.InputWarning`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from task.column_names import BOUGHT, COUNT, EXPECTED_QUERY, count_column, query_column, rename_to_query
from task.conflicts import Conflicts, settle
from task.errors import InputError, warn
from task.fields import Fields, Total, Unique, floating
from task.label_warnings import CutWords, OddQueries
from task.labels import Example, Label, locate, ordered, span_problem
from task.spec import Task
from task.table_files import located_rows
from task.tagged_tokens import TAG_COLUMNS, LocatedRow
from task.unmatched_ids import tell_unmatched
from task.unread import UnreadNames

# Columns of our own files that a reader passes over without a word: they are no mistake.
_OWN = ("labels", "status", "reason", "confidence", "request", "person", "at")


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


def _rows(
    source: Path | str, *known: str, passed_over: Collection[str] = (), rename: bool = False,
    counts: Sequence[str] = COUNT,
) -> Iterator[Fields]:
    """The rows of a table; after the last one, the columns that are neither known nor passed over are told.

    Args:
        rename: Whether the column of queries may have another name.
        counts: Names that the column `count` may have, where that is known.
    """
    others = {name: False for name in passed_over if name not in known}
    unread = UnreadNames(source, dict.fromkeys(known, True) | others)
    rows = located_rows(source)
    if rename:
        rows = _with_queries(source, rows)
    if "count" in known:
        rows = _with_counts(source, rows, [n for n in counts if n == "count" or n not in known])
    for file, line, row in rows:
        unread.see(row)
        yield Fields(file, line, row)
    unread.tell()


def _with_queries(source: Path | str, rows: Iterator[LocatedRow]) -> Iterator[LocatedRow]:
    """The rows with their queries in `query`, whatever the first row calls that column; null is a query without text.

    Raises:
        InputError: No column of the first row is one of queries.
    """
    column = None
    for file, line, row in rows:
        if column is None:
            column = query_column(row)
            if column is None:
                raise Fields(file, line, row).missing("query", EXPECTED_QUERY, rename_to_query(row))
            if column != "query":
                warn(f"the queries are those of the column {column!r}", file=source, field="query")
        renamed = row if column == "query" else {"query" if k == column else k: v for k, v in row.items()}
        yield file, line, {**renamed, "query": ""} if renamed.get("query", "") is None else renamed


def _with_counts(source: Path | str, rows: Iterator[LocatedRow], names: Sequence[str]) -> Iterator[LocatedRow]:
    """The rows with their counts in `count`, whatever the first row that has some calls that column."""
    column, seen = None, set[tuple[str, ...]]()
    for file, line, row in rows:
        if column is None and (keys := tuple(row)) not in seen:  # names are compared once, not in each row of a log
            seen.add(keys)
            column = count_column(row, names)
            if column not in (None, "count"):
                warn(f"the counts are those of the column {column!r}", file=source, field="count")
        if column in row and "count" not in row:
            row = {"count" if k == column else k: v for k, v in row.items()}
        yield file, line, row


def read_queries(source: Path | str) -> list[Example]:
    """A query log: `{"query", "count" = 1, "id"?}`; the labels of the examples are empty.

    The columns of queries and counts may have one of the names in `task.column_names`, which is told.
    """
    out, ids, total, odd = [], Unique("id"), Total(), OddQueries(source)
    for f in _rows(source, "query", "count", "id", passed_over=_OWN, rename=True):
        id_ = f.optional("id")
        ids.add(id_, f)
        query = f.text("query")
        odd.see(query, f.line)
        out.append(Example(query, (), total.count(f), id_))
    odd.tell()
    return out


def read_labels(
    source: Path | str, task: Task, *, columns: Collection[str] = (), conflicts: Conflicts | None = None,
    confidence: bool = False,
) -> list[Example]:
    """Gold or imported labels: `{"query", "labels": [{"role", "text", "start"?, "end"?}]}`, checked against the task.

    Rows that a labelling job wrote with the status `failed` or `skipped` have no labels and are left out; `partial` and
    `uncertain` are noted in the example.

    Args:
        columns: Further columns that the caller reads.
        conflicts: What becomes of a query with different labellings (`task.conflicts`); None returns all its rows.
        confidence: Whether labels keep the confidence that the file has for them.

    Raises:
        InputError: A role or closed value that the task does not have, a text that does not occur, a value of a text
            role that is the query itself, offsets that are not those of the text, a duplicate id.
    """
    out: list[Example] = []
    lines: list[int] = []
    statuses: list[str] = []
    ids, total, odd, cut = Unique("id"), Total(), OddQueries(source), CutWords(source)
    known = dict.fromkeys(("role", "text", "start", "end"), True) | {"confidence": False}
    keys = UnreadNames(source, known, "keys of labels")
    for f in _rows(source, "query", "labels", "count", "id", *columns, passed_over=_OWN):
        query = f.text("query")
        status = _status(f)
        statuses.append(status)
        if status in _UNLABELLED and not f.row.get("labels"):
            continue
        if len(query) > task.data.max_query_chars:
            raise f.error(
                "query", f"{len(query)} characters long", f"at most {task.data.max_query_chars}",
                fix="Remove the row, or raise data.max_query_chars",
            )
        odd.see(query, f.line)
        id_ = f.optional("id")
        ids.add(id_, f)
        labels = _label_rows(f)
        read = [_label(f, task, query, n, label) for n, label in enumerate(labels)]
        if confidence:
            shares = [f.share(f"labels.{n}.confidence", x.get("confidence")) for n, x in enumerate(labels)]
            read = [replace(x, confidence=share) for x, share in zip(read, shares, strict=True)]
        for label in labels:
            keys.see(label)
        try:
            located = ordered(locate_open(task, query, read))
            doubt = (status, str(f.row.get("reason", ""))) if status in _UNSURE else ("", "")
            out.append(Example(query, located, total.count(f), id_, *doubt))
        except ValueError as error:
            raise f.error("labels", str(error), found=labels, fix="A value must be words of its query") from error
        lines.append(f.line)
        cut.see(out[-1], f.line)
    keys.tell()
    odd.tell()
    cut.tell()
    _tell_missing(source, out, statuses)
    return settle(out, lines, source, conflicts)


# The statuses of a labelling job; `ok`, `invalid` and `abstained` are those of `limbeck predict`.
_LABELLED, _UNSURE = frozenset({"", "accepted", "ok"}), frozenset({"partial", "uncertain"})
_UNLABELLED = frozenset({"failed", "skipped", "invalid", "abstained"})


def _status(f: Fields) -> str:
    """What a row says of its labels, in any case and with blanks around it; `accepted` where it says nothing.

    Raises:
        InputError: Another word, which may be a slip: the row's labels would be learned.
    """
    value = f.row.get("status")
    status = "" if value is None else str(value).strip().casefold()
    if status not in _LABELLED | _UNLABELLED | _UNSURE:
        raise f.error(
            "status", "unknown status", "accepted, partial, uncertain, failed or skipped, or nothing",
            fix="Correct it, or remove the column: it says which labels are learned",
        )
    return status or "accepted"


def _tell_missing(source: Path | str, read: list[Example], statuses: list[str]) -> None:
    """Say how many rows of a labelling job's file were left out, or lost what their status says."""
    left, unsure = (sum(s in group for s in statuses) for group in (_UNLABELLED, _UNSURE))
    if left:
        problem = f"{left:,} of {left + len(read):,} rows have no labels, for so says their status"
        if not read:
            raise InputError(problem, file=source, field="status", expected="rows with labels")
        warn(f"{problem}; they are left out", file=source, field="status")
    if unsure:
        warn(
            f"{unsure:,} rows have the status partial or uncertain; as data.labels they keep it, elsewhere they are "
            "read like others", file=source, field="status", fix="Write `accepted` into the rows that you have checked",
        )
    if not any(x.labels for x in read):
        warn("no row has a label", file=source, field="labels", expected="labels in some of the rows")


def _label_rows(f: Fields) -> list[Any]:
    """The labels of a row; also as a mapping of lists, which `datasets` makes of a `Sequence` of mappings."""
    labels = f.row.get("labels")
    if isinstance(labels, dict) and labels and all(isinstance(v, list) for v in labels.values()):
        try:
            return [dict(zip(labels, values, strict=True)) for values in zip(*labels.values(), strict=True)]
        except ValueError as error:
            raise f.error("labels", "lists of different length", 'a list of {"role", "text"}') from error
    if not isinstance(labels, list):
        written = isinstance(labels, str) and labels.lstrip().startswith("[")
        tags = next((c for c in TAG_COLUMNS if c in f.row), None) if "tokens" in f.row else None
        fix = "The cell is not JSON: write it with json.dumps, not with str" if written else None
        if tags is not None and tags != "labels":
            fix = f"`tokens` and `{tags}` are read where there is no `query`: leave that column out"
        elif "labels" not in f.row:
            near = get_close_matches("labels", map(str, f.row), 1)
            fix = f"Rename the column {near[0]!r} to 'labels'" if near else None
            raise f.missing("labels", 'a list of {"role", "text"}', fix)
        raise f.error("labels", "not a list", 'a list of {"role", "text"}', fix=fix)
    return labels


def locate_open(task: Task, query: str, labels: list[Label]) -> tuple[Label, ...]:
    """`labels.locate` for the labels of open roles; those of closed and text roles are returned unchanged."""
    in_query = {r.name for r in task.open_roles}
    return (*locate(query, [x for x in labels if x.role in in_query]), *(x for x in labels if x.role not in in_query))


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
    if task.role(raw["role"]).kind != "open" or (start is None and end is None):
        return Label(raw["role"], raw["text"])
    problem = span_problem(query, raw["text"], start=start, end=end)
    if problem is not None:
        raise f.error(
            name, problem, "start and end of the text in characters, from 0, end not included", found=raw,
            fix=floating(start) or floating(end) or _other_offsets(query, raw["text"], start, end),
        )
    return Label(raw["role"], raw["text"], start, end)


def _other_offsets(query: str, text: str, start: object, end: object) -> str:
    """What offsets that are not characters from 0 may count, or that they may be left out."""
    if type(start) is not int or type(end) is not int or start < 0:
        return "Leave out both to take the first occurrence"
    for encoding, size, unit in (("utf-16-le", 2, "UTF-16 units, as JavaScript and Java do"), ("utf-8", 1, "bytes")):
        whole, part = (x.encode(encoding, "surrogatepass") for x in (query, text))
        if size * end <= len(whole) and whole[size * start : size * end] == part:
            return f"These count {unit}: count code points"
    if query[start : end + 1] == text and end < len(query):
        return "`end` is one past the last character"
    if query[max(0, start - 1) : end] == text:
        return "`start` is counted from 0"
    return "Where the text was edited, leave out both start and end: it gets the first occurrence in the query"


def read_catalogue(source: Path | str) -> list[Item]:
    """The catalogue: `{"id", "title", "brand"?, "category"?, "attributes"?: {name: value}}`."""
    out, ids = [], Unique("id")
    for f in _rows(source, "id", "title", "brand", "category", "attributes"):
        attributes = f.row.get("attributes") or {}
        if isinstance(attributes, list):  # Arrow's map type
            attributes = dict(attributes)
        if not isinstance(attributes, dict):
            raise f.error("attributes", "not a mapping", "{name: value}")
        id_ = f.optional("id")
        if id_ is None:
            raise f.missing("id", "a unique id")
        ids.add(id_, f)
        plain = {
            f.whole("attributes", str(k)): f.plain(f"attributes.{k}", v)
            for k, v in attributes.items() if v is not None
        }
        out.append(Item(id_, f.text("title"), f.optional("brand"), f.optional("category"), plain))
    return out


def read_conversions(source: Path | str, items: Mapping[str, Any]) -> list[Conversion]:
    """Conversions: `{"query", "item_id", "count" = 1}`.

    Rows of items that are not in the catalogue are left out, and told with their number and examples of ids.

    Raises:
        InputError: Beside malformed rows: the catalogue has none of the items.
    """
    out, total, odd = [], Total(), OddQueries(source)
    unknown: dict[str, int] = {}
    for f in _rows(source, "query", "item_id", "count", counts=BOUGHT):
        item_id = f.optional("item_id")
        if item_id is None:
            raise f.missing("item_id", "an item's id")
        if item_id in items:
            out.append(Conversion(f.text("query"), item_id, total.count(f)))
            odd.see(out[-1].query, f.line)
        else:
            unknown[item_id] = unknown.get(item_id, 0) + 1
    odd.tell()
    if unknown:
        tell_unmatched(source, unknown, items, met=len(out))
    return out

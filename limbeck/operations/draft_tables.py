"""Which file of a folder is what, and which of its columns are which: guesses from names and values, with reasons."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from task.column_names import BOUGHT, COUNT, QUERY, SURELY_QUERY, is_whole, named, plain
from task.errors import InputError
from task.table_files import KINDS, rows_of

Kind = Literal["queries", "catalogue", "conversions", "labels"]
_LOOKED_AT = 20_000  # rows of a file

# Our column → names that others give it, the likeliest first; those of queries and counts are in `task.column_names`.
_NUMBERED: Final = tuple(
    f"{a} {b}" for a in ("item", "product", "article", "part") for b in ("no", "nr", "number", "code")
)
_SURELY_ITEM: Final = ("item id", "product id", "sku", "asin", "article id", *_NUMBERED, "ean", "gtin", "upc")
_ITEM: Final = (*_SURELY_ITEM, "product", "item", "article")
_ID: Final = ("id", *_SURELY_ITEM, "code")
_TITLE: Final = ("title", "name", "product name", "product title", "item name", "description")
_BRAND: Final = ("brand", "brand name", "manufacturer", "maker", "vendor")
_CATEGORY: Final = ("category", "category path", "categories", "product type", "taxonomy", "department", "type")
_LABELS: Final = ("labels",)


@dataclass(frozen=True, slots=True)
class Table:
    """A file, and what it is taken for.

    Attributes:
        columns: Our name → the file's name of a column.
        attributes: Further columns of a catalogue, which become attributes of its items.
        why: What the guess rests on.
        rows: The first rows, as the file has them.
        more: Whether there are more rows.
    """

    path: Path
    kind: Kind
    columns: Mapping[str, str]
    why: str
    rows: Sequence[Mapping[str, Any]] = field(repr=False)
    more: bool = False
    attributes: Sequence[str] = ()

    @property
    def as_it_is(self) -> bool:
        """Whether our readers can read it without another name for any column."""
        return all(ours == theirs for ours, theirs in self.columns.items()) and not self.attributes

    @property
    def unread(self) -> list[str]:
        """The columns that are nothing here."""
        return [n for n in _column_names(self.rows) if n not in {*self.columns.values(), *self.attributes}]

    def renamed(self) -> Iterator[dict[str, Any]]:
        """All rows of the file with our names of the columns."""
        for _, row in rows_of(self.path):
            yield self.ours(row)

    def ours(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row with our names of the columns; other columns are left out."""
        out = {ours: row[theirs] for ours, theirs in self.columns.items() if theirs in row}
        for name in ("id", "item_id"):
            if name in out:
                out[name] = str(out[name])
        if self.attributes:
            given = row.get(self.columns.get("attributes", ""))
            flat = {plain(a).replace(" ", "_"): str(row[a]) for a in self.attributes if row.get(a) not in (None, "")}
            out["attributes"] = {**(given if isinstance(given, dict) else {}), **flat}
        return out


@dataclass(frozen=True, slots=True)
class Unknown:
    """A file that is not used, and why."""

    path: Path
    why: str


def tables_in(folder: Path) -> tuple[list[Table], list[Unknown]]:
    """The tables of a folder: its files, and its folders of one table.

    Raises:
        InputError: It is no folder, or holds no table.
    """
    if not folder.is_dir():
        raise InputError("no such folder", file=folder, fix="Give the folder that your tables are in")
    found: list[Table] = []
    unknown: list[Unknown] = []
    for path in sorted(p for p in folder.iterdir() if not p.name.startswith((".", "_"))):
        if path.is_file() and path.suffix not in KINDS:
            continue
        if path.is_dir() and not any(p.suffix in KINDS for p in path.rglob("*")):
            continue
        try:
            taken = _table(path)
        except InputError as error:
            taken = Unknown(path, str(error).removeprefix(f"{path}: "))
        (found if isinstance(taken, Table) else unknown).append(taken)  # type: ignore[arg-type]
    if not found:
        told = "".join(f"\n  {u.path.name}: {u.why}" for u in unknown)
        raise InputError(
            f"no table of queries, items, purchases or labels in this folder{told}", file=folder,
            expected=f"files that end in {', '.join(KINDS)}",
        )
    return found, unknown


def _table(path: Path) -> Table | Unknown:
    head = list(itertools.islice((row for _, row in rows_of(path)), _LOOKED_AT + 1))
    rows, more = head[:_LOOKED_AT], len(head) > _LOOKED_AT
    names = _column_names(rows)
    query, item = named(QUERY, names), named(_ITEM, names)
    labels, title, id_ = named(_LABELS, names), named(_TITLE, names), named(_ID, names)
    whole = [n for n in names if _is_whole(n, rows)]
    if labels and query:
        columns = _known({"query": query, "labels": labels, "count": named(COUNT, whole)})
        return Table(path, "labels", columns, "a column of queries and one of labels", rows, more)
    if title and id_ and title != id_ and not named(SURELY_QUERY, names):
        taken = _known({
            "id": id_, "title": title, "brand": named(_BRAND, names), "category": named(_CATEGORY, names),
            "attributes": "attributes" if "attributes" in names else None,
        })
        others = [n for n in names if n not in taken.values() and _is_attribute(n, rows)]
        return Table(path, "catalogue", taken, "columns with an id and a title", rows, more, others)
    if query and item and query != item:
        columns = _known({"query": query, "item_id": item, "count": named(BOUGHT, whole)})
        return Table(path, "conversions", columns, "a column of queries and one of items", rows, more)
    if query:
        columns = _known({"query": query, "count": named(COUNT, whole)})
        return Table(path, "queries", columns, "a column of queries, none of items or labels", rows, more)
    items = "not an id with a title"
    if title or id_:
        has, lacks, known = ("title", "id", _ID) if title else ("id", "title", _TITLE)
        items = f"{title or id_!r} is a {has} of items, but none is their {lacks} ({', '.join(known[:6])}, …)"
    wanted = f"none of queries ({', '.join(QUERY[:3])}, …), and {items}"
    return Unknown(path, f"its columns are {', '.join(names)}: {wanted}")


def _column_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every column that a row has, in the order of the file."""
    return list(dict.fromkeys(str(n) for row in rows for n in row))


def _known(columns: Mapping[str, str | None]) -> dict[str, str]:
    return {ours: theirs for ours, theirs in columns.items() if theirs is not None}


def _is_whole(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a column can hold counts."""
    return all(is_whole(r[name]) for r in rows if r.get(name) not in (None, ""))


def _is_attribute(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a column of a catalogue can hold values that somebody asks for: short texts that items have in common."""
    values = [str(r[name]) for r in rows if r.get(name) not in (None, "") and not isinstance(r[name], list | dict)]
    if len(values) * 20 < len(rows) or not values:
        return False
    texts = [v for v in values if not _is_quantity(v) and "://" not in v and len(v) <= 40]
    return len(texts) * 2 > len(values) and len(set(values)) * 2 <= len(values)


def _is_quantity(text: str) -> bool:
    """Whether a text is a number, a price or a date; `010-046` and `3m` are none."""
    with contextlib.suppress(ValueError):
        datetime.datetime.fromisoformat(text.strip())
        return True
    return re.fullmatch(r"[^\w\d]*[\d.,\s]+[^\w\d]*", text) is not None

"""Read and write doccano's JSON lines: spans, categories, both, and texts.

Layouts, by the type of the project: `sequence` (sequence labelling: `label` holds `[start, end, role]`), `intent`
(intent detection and slot filling: `entities` and `cats`) and `classes` (document classification: `label` holds names).
A category is called `ROLE=VALUE`; a foreign one that is a bare value is taken for the one closed role that has it.

Offsets count UTF-16 code units, as doccano's annotator (JavaScript) does, or grapheme clusters in a project with that
option. All of a row that doccano does not know becomes its metadata and comes back with the export: `limbeck` in each
row holds id, count, texts and confidences.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

from task.errors import InputError
from task.exchange.annotated import Annotated, Loss, Place, Reason
from task.exchange.item import Item
from task.exchange.json_list import existing
from task.exchange.offsets import Offsets, Unit
from task.files import write_jsonl
from task.labels import Example, Label, ordered
from task.spec import Task
from task.table_files import jsonl_rows

Layout = Literal["sequence", "intent", "classes"]
LAYOUTS: Final[tuple[Layout, ...]] = get_args(Layout)
OWN: Final = "limbeck"
_SPANS, _NAMES = ("entities", "label", "labels"), ("cats", "label", "labels", "categories")
_READ: Final = frozenset({"id", "text", "data", "username", "relations", "Comments", "comments", OWN, *_SPANS, *_NAMES})


def layout_of(task: Task) -> Layout:
    """The type of project that shows most of a task's labels."""
    if not task.closed_roles:
        return "sequence"
    return "intent" if task.open_roles else "classes"


def read_doccano(
    path: Path, task: Task, losses: list[Loss], *, offsets: Unit = "utf16", person: str | None = None
) -> Iterator[Annotated]:
    """The rows of an export, one at a time; doccano writes a file for each person, or one for all.

    Args:
        losses: Gets what cannot be carried over.
        offsets: How the project counts: `graphemes` if it has the option "Count grapheme clusters as one character",
            `characters` for rows that another program made.
        person: Whose file it is.

    Raises:
        InputError: The file is not such an export, or has a label that the task does not allow.
    """
    for line, row in jsonl_rows(existing(path)):
        place = Place(path, line)
        text = next((k for k in ("text", "data") if k in row), None)
        if text is None:
            raise InputError(
                "no query", file=path, line=line, field="text", found=sorted(row), expected="a text",
                fix="Export the project as JSONL",
            )
        item = Item(task, row[text], place, text)
        own = row.get(OWN) or {}
        if not isinstance(own, dict):
            raise item.error(OWN, "not an object", found=own, expected="what Limbeck wrote there")
        labels = _with_confidence(item, [*_labels(item, row, offsets), *_texts(item, own)], own)
        losses += _lost(row, place)
        id_ = item.id(f"{OWN}.id", own.get("id")) if OWN in row else item.id("id", row.get("id"))
        example = Example(item.query, ordered(labels), item.count(f"{OWN}.count", own.get("count")), id_)
        yield Annotated(example, place, row.get("username") or person)


def _lost(row: Mapping[str, Any], place: Place) -> Iterator[Loss]:
    for found in row.get("relations") or ():
        yield Loss("relation", str(found.get("type") if isinstance(found, dict) else found), place)
    for found in row.get("Comments") or row.get("comments") or ():
        yield Loss("comment", str(found), place)
    for name in row:
        if name not in _READ and row[name] is not None:
            yield Loss("column", name, place)


def _labels(item: Item, row: Mapping[str, Any], unit: Unit) -> Iterator[Label]:
    if "annotations" in row:
        raise item.error(
            "annotations", "labels by number", found=row["annotations"], expected="names in `label` or `entities`",
            fix="Export with names: JSONL (text label) in old versions of doccano",
        )
    offsets = Offsets(item.query, unit)
    seen = False
    for column in dict.fromkeys((*_SPANS, *_NAMES)):
        found = row.get(column)
        if column not in row or found is None:
            continue
        seen = True
        if not isinstance(found, list):
            raise item.error(column, "not a list", found=found, expected="a list of labels")
        for number, value in enumerate(found):
            yield _label(item, f"{column}.{number}", value, offsets)
    if not seen:
        raise item.error("label", "no labels", found=sorted(row), expected="a column label, entities or cats")


def _label(item: Item, field: str, value: object, offsets: Offsets) -> Label:
    if isinstance(value, str):
        return _named(item, field, value)
    if isinstance(value, dict):
        value = [value.get(k) for k in ("start_offset", "end_offset", "label")]
    if not isinstance(value, list) or len(value) != 3:
        raise item.error(field, "not a label", found=value, expected="[start, end, role], or a name")
    return item.span(field, value[2], start=value[0], end=value[1], offsets=offsets)


def _named(item: Item, field: str, name: str) -> Label:
    """The label that a category means, or else a text of the only text role."""
    found = _meanings(item.task, name)
    if len(found) == 1:
        return item.plain(field, *found[0])
    if not found and len(item.task.text_roles) == 1:
        return item.plain(field, item.task.text_roles[0].name, name)
    raise item.error(
        field, "not one closed label of the task" if not found else "a category of two roles", found=name,
        expected="ROLE=VALUE, with a closed role: " + (", ".join(r.name for r in item.task.closed_roles) or "none"),
        fix="Rename it in the file, or add the value to its role",
    )


def _meanings(task: Task, name: str) -> list[tuple[str, str]]:
    """Role and value of each closed label that a category can mean: by its full name, else by its value alone."""
    full = [
        (r.name, name.removeprefix(f"{r.name}=")) for r in task.closed_roles
        if name.startswith(f"{r.name}=") and name.removeprefix(f"{r.name}=") in r.allowed
    ]
    return full or [(r.name, name) for r in task.closed_roles if name in r.allowed]


def _texts(item: Item, own: Mapping[str, Any]) -> Iterator[Label]:
    for number, found in enumerate(_list(item, own, "texts")):
        if not isinstance(found, dict) or not isinstance(found.get("role"), str):
            raise item.error(f"{OWN}.texts.{number}", "not a text", found=found, expected='{"role", "text"}')
        yield item.plain(f"{OWN}.texts.{number}", found["role"], found.get("text"))


def _with_confidence(item: Item, labels: Iterable[Label], own: Mapping[str, Any]) -> list[Label]:
    """The labels with the confidences of those that are still as they were written."""
    known: dict[Any, list[float | None]] = {}
    for number, found in enumerate(_list(item, own, "confidence")):
        if not isinstance(found, list) or len(found) != 5:
            raise item.error(f"{OWN}.confidence.{number}", "not a confidence", found=found, expected="what was written")
        known.setdefault(tuple(found[:4]), []).append(item.confidence(f"{OWN}.confidence.{number}", found[4]))
    out = []
    for label in labels:
        waiting = known.get((label.role, label.text, label.start, label.end))
        out.append(replace(label, confidence=waiting.pop(0)) if waiting else label)
    return out


def _list(item: Item, own: Mapping[str, Any], key: str) -> list[Any]:
    found = own.get(key) or []
    if not isinstance(found, list):
        raise item.error(f"{OWN}.{key}", "not a list", found=found, expected="what Limbeck wrote there")
    return found


def write_doccano(
    path: Path, examples: Iterable[Example], task: Task, *, layout: Layout | None = None, offsets: Unit = "utf16"
) -> list[Loss]:
    """Write JSON lines for a project of a type; without one, of the type that shows most of the task's labels.

    Returns:
        What the file does not hold.
    """
    losses: list[Loss] = []
    chosen = layout or layout_of(task)
    write_jsonl(path, (
        _row(x, task, Place(path, n), losses, chosen, offsets) for n, x in enumerate(examples, 1)
    ))
    return losses


def _unfit(task: Task, label: Label, layout: Layout, names: Collection[str]) -> Reason | None:
    """Why a closed label cannot be a category beside those there are; None if it can."""
    name = f"{label.role}={label.text}"
    if layout == "sequence":
        return "closed role"
    if name in names:
        return "repeated value"
    return None if _meanings(task, name) == [(label.role, label.text)] else "category"


def _row(
    example: Example, task: Task, place: Place, losses: list[Loss], layout: Layout, unit: Unit
) -> dict[str, Any]:
    """A row; `limbeck` is in each, because doccano reads a table whose gaps would become numbers that JSON lacks."""
    if example.doubt:
        losses.append(Loss("status", example.doubt, place))
    offsets = Offsets(example.query, unit)
    spans: list[list[Any]] = []
    names: list[str] = []
    kept: list[Label] = []
    for label in example.labels:
        kind = task.role(label.role).kind
        if kind == "open":
            start, end = (None if x is None else offsets.of_point(x) for x in (label.start, label.end))
            if layout == "classes" or start is None or end is None:
                losses.append(Loss("span", f"{label.role} {label.text!r}", place))
                continue
            spans.append([start, end, label.role])
        elif kind == "closed":
            name = f"{label.role}={label.text}"
            if (reason := _unfit(task, label, layout, names)) is not None:
                losses.append(Loss(reason, name, place))
                continue
            names.append(name)
        kept.append(label)
    texts = [{"role": x.role, "text": x.text} for x in kept if task.role(x.role).kind == "text"]
    known = {x.key for x in kept if x.confidence is not None}  # of two equal labels one may have none
    sure = [[x.role, x.text, x.start, x.end, x.confidence] for x in kept if x.key in known]
    own = {"id": example.id, "count": example.count, "texts": texts, "confidence": sure}
    columns: dict[Layout, dict[str, Any]] = {
        "sequence": {"label": spans}, "classes": {"label": names}, "intent": {"entities": spans, "cats": names},
    }
    return {"text": example.query, **columns[layout], OWN: own}

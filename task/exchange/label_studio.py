"""Read Label Studio's exports: JSON and JSON-MIN, people's annotations and models' predictions.

A task of the JSON format is `{"data": {"text": …}, "annotations": [{"result": […], "completed_by", "created_at",
"was_cancelled"}], "predictions": [{"result", "score", "model_version"}]}`; JSON-MIN is one flat object an annotation.
Offsets count code points and `end` is one past the last; before 2022 they counted UTF-16 units. Where a span has its
text, as with Label Studio's defaults, the text tells which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from task.errors import InputError
from task.exchange.annotated import Annotated, Loss, Place, Reason, State
from task.exchange.item import Item
from task.exchange.json_list import read_json_list
from task.exchange.offsets import Offsets, Unit
from task.labels import Example, Label, ordered
from task.role import Role
from task.spec import Task

TEXT, ID, COUNT = "text", "query_id", "query_count"
"""Keys of a task's `data`. Not `id`, which JSON-MIN takes for the task's own number."""

_OWN_MIN: Final = frozenset({
    "id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", ID, COUNT,
})


@dataclass(frozen=True, slots=True)
class _File:
    """What reading one file needs throughout."""

    path: Path
    task: Task
    losses: list[Loss]
    text: str
    unit: Unit
    predictions: bool


def read_label_studio(
    path: Path, task: Task, losses: list[Loss], *, text: str = TEXT, offsets: Unit = "characters",
    predictions: bool = False,
) -> Iterator[Annotated]:
    """The annotations of an export, those of a task side by side: by time, and the ground truth last.

    Args:
        losses: Gets what cannot be carried over.
        text: The key of `data` that holds the query.
        offsets: How spans without a text are counted.
        predictions: Whether a task's predictions are read too, with their scores as confidences.

    Raises:
        InputError: The file is not such an export, or has a label that the task does not allow.
    """
    file = _File(path, task, losses, text, offsets, predictions)
    for number, row in _by_time(read_json_list(path)):
        place = Place(path, item=f"task {row['id']}" if type(row.get("id")) is int else f"item {number}")
        yield from _task(file, place, row) if "data" in row else _minimal(file, place, row)


def _by_time(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """The objects with their numbers; JSON-MIN has the latest annotation of a task first, and gets it last here."""
    first: dict[int, int] = {}
    keyed = []
    for number, row in enumerate(rows, 1):
        minimal = "data" not in row and type(row.get("id")) is int
        at = first.setdefault(row["id"], number) if minimal else number
        keyed.append((at, str(row.get("created_at")) if minimal else "", number, row))
    return [(number, row) for _, _, number, row in sorted(keyed, key=lambda x: x[:3])]


def _task(file: _File, place: Place, row: Mapping[str, Any]) -> Iterator[Annotated]:
    item, data = _item(file, place, row["data"], "data.")
    query_id, count = item.id(f"data.{ID}", data.get(ID)), item.count(f"data.{COUNT}", data.get(COUNT))
    annotations = _objects(item, "annotations", row.get("annotations", row.get("completions")))
    predictions = _objects(item, "predictions", row.get("predictions"))
    if _objects(item, "drafts", row.get("drafts")):
        file.losses.append(Loss("draft", item.query, place))
    if not annotations and not (predictions and file.predictions):
        file.losses.append(Loss("only predicted" if predictions else "not annotated", item.query, place))
    for field, found in sorted(annotations, key=_order):
        skipped = bool(found.get("was_cancelled") or found.get("skipped"))
        labels = _labels(file, item, f"{field}.result", found.get("result"))
        if skipped and labels:
            file.losses.append(Loss("labels of a skip", f"{len(labels)} of {item.query!r}", place))
        state: State = "skipped" if skipped else "labelled"
        yield Annotated(
            Example(item.query, () if skipped else ordered(labels), count, query_id), place,
            _person(found.get("completed_by")), _text(found.get("created_at")), state,
        )
    for field, found in predictions if file.predictions else ():
        labels = _labels(file, item, f"{field}.result", found.get("result"))
        yield Annotated(
            Example(item.query, ordered(labels), count, query_id), place, _text(found.get("model_version")),
            _text(found.get("created_at")), "machine",
        )


def _order(annotation: tuple[str, Mapping[str, Any]]) -> tuple[bool, str]:
    """By time, and the ground truth last."""
    found = annotation[1]
    return bool(found.get("ground_truth")), str(found.get("created_at"))


def _item(file: _File, place: Place, data: object, prefix: str) -> tuple[Item, Mapping[str, Any]]:
    if not isinstance(data, dict) or file.text not in data:
        raise InputError(
            "no query", file=place.file, field=f"{place.item}: {prefix}{file.text}",
            found=sorted(data) if isinstance(data, dict) else data, expected=f"a text called {file.text!r}",
            fix="Name the key that holds the query with --text",
        )
    return Item(file.task, data[file.text], place, f"{prefix}{file.text}"), data


def _objects(item: Item, field: str, value: object) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a list with their fields; none of null.

    Raises:
        InputError: It is something else, such as the ids of annotations.
    """
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(x, dict) for x in value):
        raise item.error(
            field, "not a list of objects", found=value, expected="objects, as in an export of the format JSON",
            fix="Export the project as JSON, with annotations in full",
        )
    return [(f"{field}.{n}", x) for n, x in enumerate(value)]


def _minimal(file: _File, place: Place, row: Mapping[str, Any]) -> Iterator[Annotated]:
    """The annotation of an object of JSON-MIN: results stand beside the data, by the names of their controls."""
    item, _ = _item(file, place, row, "")
    query_id, count = item.id(ID, row.get(ID)), item.count(COUNT, row.get(COUNT))
    if row.get("annotation_id") is None:
        file.losses.append(Loss("not annotated", item.query, place))
        return
    results = []
    for name, value in row.items():
        if name == file.text or name in _OWN_MIN:
            continue
        found = _results_of(file.task, name, value)
        if not found:
            file.losses.append(Loss("column", name, place))
        results += found
    yield Annotated(
        Example(item.query, ordered(_labels(file, item, "", results)), count, query_id), place,
        _person(row.get("annotator")), _text(row.get("created_at")),
    )


def _results_of(task: Task, name: str, value: object) -> list[dict[str, Any]]:
    """A value of JSON-MIN as results of the JSON format; none where it is data."""
    role = next((r for r in task.roles if r.name == name), None)
    out = []
    for part in value if isinstance(value, list) else [value]:
        inner = part if isinstance(part, dict) else {}
        kind = next((k for k in ("labels", "choices", "taxonomy") if k in inner), None)
        if kind is None and "text" in inner:  # of a region without a label it is a text, of a text control a list
            kind = "labels" if "start" in inner and isinstance(inner["text"], str) else "textarea"
        if kind is not None:
            out.append({"type": kind, "from_name": name, "value": inner})
        elif role is not None and role.kind == "text":
            out.append({"type": "textarea", "from_name": name, "value": {"text": part}})
        elif role is not None and role.kind == "closed":
            out.append({"type": "choices", "from_name": name, "value": {"choices": [part]}})
        elif len(inner) > 0:
            out.append({"type": next(iter(inner)), "from_name": name, "value": inner})
    return out


def _labels(file: _File, item: Item, field: str, results: object) -> list[Label]:
    """The labels of a list of results; what is none goes to the losses."""
    found = _objects(item, field, results)
    spans = [x["value"] for _, x in found if x.get("type") == "labels" and isinstance(x.get("value"), dict)]
    offsets = _offsets(item, spans, file.unit)
    labels: list[Label] = []
    for place, result in found:
        kind, value = result.get("type"), result.get("value")
        if isinstance(value, dict) and kind in ("labels", "choices", "textarea", "taxonomy"):
            labels += _of_result(file, item, place, result, offsets)
        else:
            reason: Reason = "relation" if kind == "relation" else "unsupported result"
            file.losses.append(Loss(reason, str(kind if kind == "relation" else f"{kind} {result.get('from_name')}"),
                                    item.place))
        if isinstance(result.get("meta"), dict) and result["meta"].get("text"):
            file.losses.append(Loss("note", str(result["meta"]["text"]), item.place))
    return labels


def _offsets(item: Item, spans: Sequence[Mapping[str, Any]], unit: Unit) -> Offsets:
    """How an annotation's offsets are counted: in the unit with which every span has the text that it says."""
    known = [x for x in spans if isinstance(x.get("text"), str)]
    for candidate in dict.fromkeys((unit, "characters", "utf16")) if known else ():
        offsets = Offsets(item.query, candidate)
        if all(_text_at(item.query, x, offsets) == _plain(x["text"]) for x in known):
            return offsets
    return Offsets(item.query, unit)


def _text_at(query: str, value: Mapping[str, Any], offsets: Offsets) -> str | None:
    start, end = (offsets.to_points(value[x]) if type(value.get(x)) is int else None for x in ("start", "end"))
    return None if start is None or end is None else _plain(query[start:end])


def _plain(text: str) -> str:
    r"""A text with line breaks as `\n`, whichever way the editor has written them."""
    return text.replace("\\n", "\n").replace("\r\n", "\n").replace("\r", "\n")


def _of_result(
    file: _File, item: Item, field: str, result: Mapping[str, Any], offsets: Offsets
) -> Iterator[Label]:
    kind, value, name = result["type"], result["value"], result.get("from_name")
    score = item.confidence(f"{field}.score", result.get("score"))
    if kind == "labels":
        names = value.get("labels")
        if not isinstance(names, list) or not names:
            file.losses.append(Loss("unlabelled region", str(value.get("text", "")), item.place))
            return
        said = value.get("text") if isinstance(value.get("text"), str) else None
        found = _text_at(item.query, value, offsets)
        for role in names:
            yield item.span(
                f"{field}.value", role, start=value.get("start"), end=value.get("end"), offsets=offsets,
                text=None if said is None or _plain(said) == found else said, confidence=score,
            )
    elif "start" in value or "end" in value:
        file.losses.append(Loss("per region", f"{name}: {value.get(kind, value.get('text'))}", item.place))
    else:
        known = (result.get("meta") or {}).get("confidence") if isinstance(result.get("meta"), dict) else None
        for role, text in _values(file.task, item, field, result):
            confidence = item.confidence(f"{field}.meta", known.get(text)) if isinstance(known, dict) else score
            yield item.plain(f"{field}.value", role, text, confidence)


def _values(task: Task, item: Item, field: str, result: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Role and value of each choice or text of a result."""
    kind, name = result["type"], result.get("from_name")
    key = "text" if kind == "textarea" else kind
    values = result["value"].get(key)
    values = [values] if isinstance(values, str) else values
    if not isinstance(values, list):
        raise item.error(f"{field}.value.{key}", "not a list", found=values, expected="a list of values")
    roles = task.text_roles if kind == "textarea" else task.closed_roles
    role = next((r for r in roles if r.name == name), None)
    for value in values:
        path = value if kind == "taxonomy" else [value]
        if not isinstance(path, list) or not all(isinstance(x, str) for x in path):
            raise item.error(f"{field}.value.{key}", "not a value", found=value, expected="texts")
        fits = [r for r in roles if kind == "textarea" or (r.separator or " > ").join(path) in r.allowed]
        mine = role or _only(item, field, name, fits)
        yield mine.name, (mine.separator or " > ").join(path)


def _only(item: Item, field: str, name: object, roles: Sequence[Role]) -> Role:
    """The role that a control of another name must mean, because no other can be meant."""
    if len(roles) != 1:
        raise item.error(
            f"{field}.from_name", "not the name of a role", found=name,
            expected="one of: " + ", ".join(r.name for r in item.task.roles),
            fix="Give the control of the labelling configuration the name of its role",
        )
    return roles[0]


def _person(value: object) -> str | None:
    """The annotator: an address where there is one, else the number of the account."""
    if isinstance(value, dict):
        value = value.get("email") or value.get("username") or value.get("id")
    return None if value is None else str(value)


def _text(value: object) -> str | None:
    return None if value is None else str(value)

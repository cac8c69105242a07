"""The formats by name: read several files, take one annotation a query, write a table that `task.readers` reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from task.errors import InputError
from task.exchange.annotated import Annotated, Loss
from task.exchange.conll import Columns, read_conll
from task.exchange.conll_write import write_conll
from task.exchange.doccano import Layout, read_doccano, write_doccano
from task.exchange.label_studio import TEXT, read_label_studio
from task.exchange.label_studio_write import write_label_studio
from task.exchange.offsets import Unit
from task.labels import Example
from task.spec import Task

Format = Literal["label-studio", "doccano", "conll"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
_OFFSETS: Final[dict[Format, Unit]] = {"label-studio": "characters", "doccano": "utf16", "conll": "characters"}
_RANKS: Final = ("machine", "skipped", "labelled")


@dataclass(frozen=True, slots=True)
class Options:
    """What a format leaves open; an option of another format does nothing.

    Attributes:
        offsets: The unit of offsets, for Label Studio and doccano; None for the format's own.
        text: The key of the query in Label Studio's `data`.
        predictions: Of Label Studio: whether predictions are read too, or whether labels are written as some.
        columns: Of CoNLL.
        layout: Of doccano, in writing; None for the one that fits the task.
    """

    offsets: Unit | None = None
    text: str = TEXT
    predictions: bool = False
    columns: Columns | None = None
    layout: Layout | None = None


def read_annotations(
    format_: Format, paths: Sequence[Path], task: Task, losses: list[Loss], options: Options | None = None
) -> Iterator[Annotated]:
    """The annotations of all files, one after another.

    Of several files that do not name their annotators (doccano, CoNLL), each is taken for one person's, who is called
    as the file without its ending: so doccano exports them.

    Raises:
        InputError: A file is malformed, or has a label that the task does not allow.
    """
    chosen = options or Options()
    unit = chosen.offsets or _OFFSETS[format_]
    for path in paths:
        person = path.stem if len(paths) > 1 else None
        if format_ == "label-studio":
            yield from read_label_studio(
                path, task, losses, text=chosen.text, offsets=unit, predictions=chosen.predictions
            )
        elif format_ == "doccano":
            yield from read_doccano(path, task, losses, offsets=unit, person=person)
        else:
            yield from read_conll(path, task, losses, columns=chosen.columns, person=person)


def write_labels(
    format_: Format, path: Path, examples: Sequence[Example], task: Task, options: Options | None = None
) -> list[Loss]:
    """Write labels in a format; returns what the file does not hold. The file is whole or not there."""
    chosen = options or Options()
    if format_ == "label-studio":
        return write_label_studio(path, examples, task, predictions=chosen.predictions)
    if format_ == "doccano":
        return write_doccano(
            path, examples, task, layout=chosen.layout, offsets=chosen.offsets or _OFFSETS[format_]
        )
    return write_conll(path, examples, task)


def one_each(found: Iterable[Annotated], losses: list[Loss]) -> list[Annotated]:
    """One annotation of each query: of several of one item or one id, the last by a person; others become losses.

    A label precedes a skip, and a skip a prediction. In a Label Studio task the ground truth is the last, then the
    latest.
    """
    kept: dict[object, Annotated] = {}
    for x in found:
        key = ("id", x.example.id) if x.example.id is not None else x.place
        other = kept.get(key)
        if other is None or _RANKS.index(x.state) >= _RANKS.index(other.state):
            kept[key] = x
        else:
            other = x
        if other is not None:
            what = f"{other.person or other.state}: {other.example.query}"
            losses.append(Loss("other annotation", what, other.place))
    return list(kept.values())


def by_person(found: Iterable[Annotated]) -> dict[str, list[Annotated]]:
    """The annotations of each person, by a name that can be a file's: one of each query.

    Raises:
        InputError: Two people would have the same file.
    """
    people: dict[str, list[Annotated]] = {}
    for x in found:
        if x.person is not None and x.state != "machine":
            people.setdefault(x.person, []).append(x)
    out: dict[str, list[Annotated]] = {}
    for person, mine in people.items():
        name = re.sub(r"[^\w.@+-]+", "_", person).strip(".") or "_"
        if name in out:
            raise InputError(
                "two people of the same name", found=person, expected=f"names that differ in more than signs: {name}",
                fix="Import each one's annotations by --person",
            )
        out[name] = one_each(mine, [])
    return out


def row_of(found: Annotated) -> dict[str, Any]:
    """A row for `task.readers.read_labels`, which leaves out a skipped query; beside it who labelled it and when."""
    row = found.example.to_json()
    if found.state == "skipped":
        row["status"] = "skipped"
    known = {"person": found.person, "at": found.at}
    return row | {k: v for k, v in known.items() if v is not None}

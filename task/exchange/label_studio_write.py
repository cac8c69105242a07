"""Write Label Studio's tasks, and the labelling configuration of a project that fits a task file.

The controls of the configuration are called as the roles: `<Labels>` for all open roles, `<Choices>` for a closed role
(`<Taxonomy>` where its values are paths), `<TextArea>` for a text role.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import quoteattr

from task.errors import InputError
from task.exchange.annotated import Loss, Place
from task.exchange.label_studio import COUNT, ID, TEXT
from task.files import write_parts, write_text
from task.labels import Example, Label
from task.role import Role
from task.spec import Task
from task.text import one_line

_MANY: Final = 20  # choices: more are a menu
_NOT_XML: Final = frozenset(map(chr, (*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF)))


def write_label_studio(path: Path, examples: Iterable[Example], task: Task, *, predictions: bool = False) -> list[Loss]:
    """Write a JSON array of tasks, one at a time.

    Args:
        predictions: Whether the labels are a model's: an annotator then sees them and submits what is right. Else they
            are annotations.

    Returns:
        What the file does not hold.
    """
    losses: list[Loss] = []
    write_parts(path, _parts(path, examples, task, losses, predictions))
    return losses


def _parts(
    path: Path, examples: Iterable[Example], task: Task, losses: list[Loss], predictions: bool
) -> Iterator[str]:
    first = True
    for number, example in enumerate(examples, 1):
        row = _task(example, task, Place(path, item=f"item {number}"), losses, predictions)
        yield ("[\n" if first else ",\n") + one_line(json.dumps(row, ensure_ascii=False, allow_nan=False))
        first = False
    yield "[]\n" if first else "\n]\n"


def _task(example: Example, task: Task, place: Place, losses: list[Loss], predictions: bool) -> dict[str, Any]:
    data: dict[str, Any] = {TEXT: example.query, COUNT: example.count}
    if example.id is not None:
        data[ID] = example.id
    if example.doubt:
        losses.append(Loss("status", example.doubt, place))
    results = list(_results(example, task, place, losses))
    known = [x.confidence for x in example.labels if x.confidence is not None]
    if predictions:
        score = {"score": min(known)} if known else {}
        return {"data": data, "predictions": [{"model_version": task.name, **score, "result": results}]}
    return {"data": data, "annotations": [{"result": results}]}


def _results(example: Example, task: Task, place: Place, losses: list[Loss]) -> Iterator[dict[str, Any]]:
    spans = _labels_name(task)
    for number, label in enumerate(x for x in example.labels if x.start is not None):
        span = {"start": label.start, "end": label.end, "text": label.text, "labels": [label.role]}
        yield _result(f"span-{number}", "labels", spans, span, _scores([label]))
    for role in task.roles:
        mine = [] if role.kind == "open" else [x for x in example.labels if x.role == role.name]
        kept = list({x.text: x for x in reversed(mine)}.values())[::-1]
        losses += [Loss("repeated value", f"{x.role} {x.text!r}", place) for x in mine if not any(x is k for k in kept)]
        if kept:
            kind, values = _kind(role), [x.text for x in kept]
            key = "text" if kind == "textarea" else kind
            written = [v.split(str(role.separator)) for v in values] if kind == "taxonomy" else values
            value = {key: written}
            yield _result(f"role-{task.roles.index(role)}", kind, role.name, value, _scores(kept))


def _result(id_: str, kind: str, name: str, value: dict[str, Any], scores: dict[str, Any]) -> dict[str, Any]:
    return {"id": id_, "type": kind, "from_name": name, "to_name": TEXT, "value": value, **scores}


def _scores(labels: Sequence[Label]) -> dict[str, Any]:
    """A result's score; a result of several values has the least of theirs, and beside it each."""
    known = {x.text: x.confidence for x in labels if x.confidence is not None}
    if not known:
        return {}
    score = {"score": min(known.values())}
    return score if len(labels) == 1 else {**score, "meta": {"confidence": known}}


def _kind(role: Role) -> str:
    return "textarea" if role.kind == "text" else "choices" if role.separator is None else "taxonomy"


def _labels_name(task: Task) -> str:
    """The name of the control for spans; controls have different names, and the others are called as their roles."""
    name, taken = "spans", {r.name for r in task.roles} | {TEXT}
    while name in taken:
        name += "_"
    return name


def labelling_config(task: Task) -> str:
    """The labelling configuration of a project for a task's roles, as XML.

    Raises:
        InputError: A role's name or value has a character that XML cannot hold, or is the name of the text.
    """
    lines = ["<View>"]
    if task.open_roles:
        lines.append(f"  <Labels name={_quoted(task, _labels_name(task))} toName={quoteattr(TEXT)}>")
        lines += [f"    <Label value={_quoted(task, r.name)}/>" for r in task.open_roles]
        lines.append("  </Labels>")
    lines.append(f'  <Text name={quoteattr(TEXT)} value="${TEXT}" granularity="symbol"/>')
    for role in (*task.closed_roles, *task.text_roles):
        lines += _control(task, role)
    return "\n".join([*lines, "</View>"]) + "\n"


def write_labelling_config(path: Path, task: Task) -> None:
    """Write `labelling_config` to a file."""
    write_text(path, labelling_config(task))


def _control(task: Task, role: Role) -> Iterator[str]:
    if role.name == TEXT:
        raise InputError(
            "a role called as the text itself", field=f"roles.{role.name}", found=TEXT,
            expected="another name for a closed or text role", fix="Rename the role for Label Studio",
        )
    name = f"name={_quoted(task, role.name)} toName={quoteattr(TEXT)}"
    yield f"  <Header value={_quoted(task, role.name)}/>"
    if role.kind == "text":
        yield f'  <TextArea {name} maxSubmissions="{role.most_texts}" editable="true"/>'
    elif role.separator is not None:
        yield f'  <Taxonomy {name} maxUsages="1">'
        yield from _branches(task, [v.split(role.separator) for v in role.values], "    ")
        yield "  </Taxonomy>"
    else:
        layout = "select" if len(role.values) > _MANY else "inline"
        yield f'  <Choices {name} choice="{"multiple" if role.multiple else "single"}" layout="{layout}">'
        yield from (f"    <Choice value={_quoted(task, v)}/>" for v in role.values)
        yield "  </Choices>"


def _branches(task: Task, paths: Sequence[Sequence[str]], indent: str) -> Iterator[str]:
    for first in dict.fromkeys(p[0] for p in paths):
        below = [p[1:] for p in paths if p[0] == first and len(p) > 1]
        yield f"{indent}<Choice value={_quoted(task, first)}{'' if below else '/'}>"
        if below:
            yield from _branches(task, below, indent + "  ")
            yield f"{indent}</Choice>"


def _quoted(task: Task, text: str) -> str:
    if _NOT_XML & set(text):
        raise InputError(
            "a control character, which XML cannot hold", field=f"roles of task {task.name!r}", found=text,
            expected="names and values without control characters", fix="Rename it in the task file",
        )
    return quoteattr(text, {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})

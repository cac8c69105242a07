"""Write CoNLL files in IOB2: token, tab and tag a line, an empty line after each query.

Tokens are the units of the coarsest segmentation that fits (`task.segmentation`), cut where a span begins or ends
inside one. A query that is not its tokens with a blank between them, and what tags cannot hold, stand in comments that
`task.exchange.conll` reads back; they are written only where they are needed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from task.exchange.annotated import Loss, Place
from task.exchange.conll import DOCUMENT
from task.files import write_parts
from task.labels import Example, Label
from task.segmentation import Segmentation, Span, choose_segmentation, units
from task.spec import Task
from task.text import one_line


def write_conll(path: Path, examples: Sequence[Example], task: Task) -> list[Loss]:
    """Write a file; returns what it does not hold."""
    losses: list[Loss] = []
    segmentation = choose_segmentation(examples)
    open_roles = {r.name for r in task.open_roles}
    write_parts(path, (_block(x, open_roles, segmentation, Place(path, item=f"item {n}"), losses)
                       for n, x in enumerate(examples, 1)))
    return losses


def _block(
    example: Example, open_roles: set[str], segmentation: Segmentation, place: Place, losses: list[Loss]
) -> str:
    if example.doubt:
        losses.append(Loss("status", example.doubt, place))
    tagged = _tagged(example, open_roles)
    tokens = _tokens(example.query, segmentation, tagged)
    lines = list(_comments(example, [example.query[s:e] for s, e in tokens], tagged))
    for start, end in tokens:
        mine = next((x for x in tagged if (x.start or 0) <= start < (x.end or 0)), None)
        tag = "O" if mine is None else f"{'B' if mine.start == start else 'I'}-{mine.role}"
        lines.append(f"{example.query[start:end]}\t{tag}")
    return "\n".join([*lines, "", ""])


def _tagged(example: Example, open_roles: set[str]) -> list[Label]:
    """The spans that tags can hold: none overlaps another, begins or ends with a blank, or has an unprintable role."""
    out: list[Label] = []
    at = 0
    mine = (x for x in example.labels if x.role in open_roles)
    for label in sorted(mine, key=lambda x: (x.start or 0, -(x.end or 0))):
        if label.start is None or label.end is None or label.start < at or label.text != label.text.strip():
            continue
        if label.role.isprintable() and label.role == label.role.strip():
            out.append(label)
            at = label.end
    return out


def _tokens(query: str, segmentation: Segmentation, tagged: Sequence[Label]) -> list[Span]:
    """The units of a query, cut at the borders of spans."""
    borders = sorted({x for label in tagged for x in (label.start, label.end) if x is not None})
    out = []
    for start, end in units(query, segmentation):
        for first, last in itertools.pairwise([start, *(x for x in borders if start < x < end), end]):
            if query[first:last] == DOCUMENT:  # as one token it would be the mark of a document
                out += [(first, last - 1), (last - 1, last)]
            else:
                out.append((first, last))
    return out


def _comments(example: Example, tokens: Sequence[str], tagged: Sequence[Label]) -> Iterator[str]:
    if example.query != " ".join(tokens) or "\ufeff" in example.query or not example.query:
        yield _comment("text", example.query)
    if example.id is not None:
        yield _comment("sent_id", example.id)
    if example.count != 1:
        yield f"# count = {example.count}"
    beside = [x for x in example.labels if not any(x is y for y in tagged)]
    if beside:
        yield f"# labels = {_json([_written(x) for x in beside])}"
    if sure := [[x.role, x.start, x.end, x.confidence] for x in tagged if x.confidence is not None]:
        yield f"# confidence = {_json(sure)}"


def _comment(key: str, text: str) -> str:
    """A comment with a text as it is, or as JSON where a line could not hold it."""
    plain = text and text == text.strip() and len(text.splitlines()) == 1 and "\t" not in text
    return f"# {key} = {text}" if plain else f"# {key}_json = {_json(text)}"


def _written(label: Label) -> dict[str, object]:
    out = {"role": label.role, "text": label.text, "start": label.start, "end": label.end,
           "confidence": label.confidence}
    return {k: v for k, v in out.items() if v is not None}


def _json(value: object) -> str:
    return one_line(json.dumps(value, ensure_ascii=False, allow_nan=False))

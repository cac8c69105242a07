r"""Read CoNLL files: a token and its tag a line, an empty line after each query.

What tokens and tags cannot hold stands in comment lines before a query's tokens (`task.exchange.conll_write`):

    # text = oat milk,  1 l        the query, where it is not the tokens with a blank between them
    # text_json = " oat\tmilk"     the same as a JSON text, where the query cannot stand in a line as it is
    # sent_id = q17                its id; `# sent_id_json` as above
    # count = 3
    # labels = [{"role": …}]       labels without a span, and spans that tags cannot hold
    # confidence = [["brand", 0, 3, 0.9]]    of the spans of the tags

`# text` and `# sent_id` are those of CoNLL-U. Tags are read in every scheme of `task.tagged_tokens`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from task.errors import InputError
from task.exchange.annotated import Annotated, Loss, Place
from task.exchange.item import Item
from task.exchange.json_list import existing
from task.exchange.offsets import Offsets
from task.labels import Example, Label, ordered
from task.spec import Task
from task.table_files import text_lines
from task.tagged_tokens import LocatedRow, spans_of_tags

DOCUMENT: Final = "-DOCSTART-"
KEYS: Final = ("text", "text_json", "sent_id", "sent_id_json", "count", "labels", "confidence")
_TAG: Final = re.compile(r"O|[BIESLUMW]-.+", re.DOTALL)
_COMMENT: Final = re.compile(r"#\s*(\w+)\s*=(?: (.*))?", re.DOTALL)
_LEAST: Final = 2  # columns: a token and a tag


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what, counted from 0; negative from the last.

    Attributes:
        number: How many columns a line has; None for as many as the first line has.
    """

    token: int = 0
    tag: int = -1
    number: int | None = None

    @classmethod
    def of(cls, text: str) -> Columns:
        """Of a list such as `token,pos,chunk,tag`: the names `token` and `tag` count, others are passed over.

        Raises:
            InputError: One of the two is missing, or there twice.
        """
        names = [x.strip() for x in text.split(",")]
        if names.count("token") != 1 or names.count("tag") != 1:
            raise InputError(
                "not a list of columns", field="--columns", found=text,
                expected="names with commas between them, `token` and `tag` once each, such as token,pos,chunk,tag",
            )
        return cls(names.index("token"), names.index("tag"), len(names))


def read_conll(
    path: Path, task: Task, losses: list[Loss], *, columns: Columns | None = None, person: str | None = None
) -> Iterator[Annotated]:
    """The queries of a file, one at a time.

    Args:
        losses: Gets what cannot be carried over.
        columns: Where token and tag stand; without it, the first and the last column.
        person: Whose file it is.

    Raises:
        InputError: A line without a tag, tags of no scheme, a comment of ours that is broken, or a label that the task
            does not allow. What depends on all tags of the file comes after the last query.
    """
    rows = (_row(block) for block in _blocks(existing(path), columns or Columns(), losses))
    try:
        for _, _, row in spans_of_tags(rows):
            block: _Block = row["block"]
            yield Annotated(_example(_Sentence(task, block), row["labels"]), Place(path, block.line), person)
    except InputError as error:
        raise _at_its_line(error) from error


@dataclass(slots=True)
class _Block:
    """The lines of one query: `line` is that of its first token, or of its first comment where it has no token."""

    file: Path
    line: int = 0
    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    comments: dict[str, tuple[int, str]] = field(default_factory=dict)


def _row(block: _Block) -> LocatedRow:
    return block.file, block.line, {"tokens": block.tokens, "tags": block.tags, "block": block}


def _at_its_line(error: InputError) -> InputError:
    """An error of a query's nth tag at the line of that tag."""
    found = re.fullmatch(r"tags\.(\d+)", error.field or "")
    if found is None or error.line is None:
        return error
    return InputError(
        error.problem, file=error.file, line=error.line + int(found[1]), field="tag", found=error.found,
        expected=error.expected, fix=error.fix,
    )


def _blocks(path: Path, columns: Columns, losses: list[Loss]) -> Iterator[_Block]:
    block, number, told = _Block(path), columns.number, False
    for line, raw in text_lines(path, appended=False):  # a token may begin with that mark
        text = raw.rstrip("\r\n")
        cells = _cells(text, columns, number)
        if not cells or cells[0] == DOCUMENT:
            if block.tokens or block.comments:
                yield block
            block = _Block(path)
        elif _is_comment(text, cells, columns, number):
            _keep_comment(block, line, text, losses)
        else:
            number = number or len(cells)
            _check_cells(path, line, cells, number)
            if number > _LEAST and not told:
                losses.append(Loss("column", f"{number - _LEAST} beside token and tag", Place(path, line)))
                told = True
            block.line = block.line if block.tokens else line
            block.tokens.append(cells[columns.token])
            block.tags.append(cells[columns.tag])
    if block.tokens or block.comments:
        yield block


def _cells(text: str, columns: Columns, number: int | None) -> list[str]:
    """The columns of a line: between tabs, or where it has none, between blanks; none of an empty line.

    A tag in the last column may hold blanks: Label Studio writes `milk -X- _ B-product type`.
    """
    if not text.strip(" \t"):
        return []
    if "\t" in text:
        return text.split("\t")
    most = number - 1 if number is not None and columns.tag in (-1, number - 1) else 0
    return re.split(" +", text.strip(" "), maxsplit=most)


def _check_cells(path: Path, line: int, cells: Sequence[str], number: int) -> None:
    if len(cells) != number or number < _LEAST or "" in cells:
        raise InputError(
            "wrong number of columns", file=path, line=line, found=" ".join(cells),
            expected=f"{max(_LEAST, number)} columns, each with a text, as in the lines before",
            fix="Write a tab between the columns, and an empty line between two queries",
        )


def _is_comment(text: str, cells: Sequence[str], columns: Columns, number: int | None) -> bool:
    """Whether a line is a comment, and not the token `#`: that has as many columns as others and a tag."""
    if not text.startswith("#") or "\t" in text:
        return False
    found = _COMMENT.fullmatch(text)
    if found is not None and found[1] in KEYS:
        return True
    return len(cells) != (number or len(cells)) or len(cells) < _LEAST or not _TAG.fullmatch(cells[columns.tag])


def _keep_comment(block: _Block, line: int, text: str, losses: list[Loss]) -> None:
    found = _COMMENT.fullmatch(text)
    if found is None or found[1] not in KEYS:
        losses.append(Loss("comment", text, Place(block.file, line)))
        return
    if block.tokens or found[1] in block.comments:
        raise InputError(
            "a comment in the wrong place", file=block.file, line=line, found=text,
            expected="each of these comments once, before the tokens of its query",
            fix="Write an empty line between two queries",
        )
    block.line = block.line or line
    block.comments[found[1]] = line, found[2] or ""


class _Sentence(Item):
    """A query of a block."""

    def __init__(self, task: Task, block: _Block) -> None:
        self.block = block
        text = block.comments.get("text", (0, " ".join(block.tokens)))[1]
        super().__init__(task, self.json("text_json", text), Place(block.file, block.line), "text")

    def json(self, key: str, default: object) -> Any:
        """The value of a comment that holds JSON, or the default without that comment."""
        if key not in self.block.comments:
            return default
        line, text = self.block.comments[key]
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, type(default)):
            raise InputError(
                "not what was written there", file=self.block.file, line=line, field=f"# {key}", found=text,
                expected=f"a JSON {'list' if isinstance(default, list) else 'text'}", fix="Restore or remove the line",
            )
        return found

    def places(self) -> list[tuple[int, int]]:
        """`[start, end)` of each token in the query."""
        out, at = [], 0
        for number, token in enumerate(self.block.tokens):
            start = _after_blanks(self.query, at)
            at = start + len(token)
            if self.query[start:at] != token:
                raise InputError(
                    "the token is not what comes next in the query", file=self.block.file,
                    line=self.block.line + number, field="token", found=token, expected=repr(self.query[start:at]),
                    fix="Correct the token or the comment `# text`; without the comment, a blank stands between tokens",
                )
            out.append((start, at))
        if _after_blanks(self.query, at) < len(self.query):
            raise self.error("# text", "more words than tokens", found=self.query[at:], expected="a token for each")
        return out


def _after_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _example(sentence: _Sentence, spans: Sequence[Mapping[str, Any]]) -> Example:
    """The query with the spans of its tags and the labels of its comments."""
    joined, starts, ends, at = sentence.block.tokens, {}, {}, 0
    for token, (start, end) in zip(joined, sentence.places(), strict=True):
        starts[at], ends[at + len(token)] = start, end
        at += len(token) + 1
    points = Offsets(sentence.query, "characters")
    labels = [
        sentence.span("tag", x["role"], start=starts[x["start"]], end=ends[x["end"]], offsets=points) for x in spans
    ]
    sure: dict[tuple[Any, ...], float | None] = {}
    for found in sentence.json("confidence", []):
        if not isinstance(found, list) or len(found) != len(("role", "start", "end", "confidence")):
            raise sentence.error("# confidence", "not a confidence", found=found, expected="as it was written")
        sure[tuple(found[:3])] = sentence.confidence("# confidence", found[3])
    labels = [replace(x, confidence=sure.get((x.role, x.start, x.end))) for x in labels]
    labels += [_beside(sentence, found, points) for found in sentence.json("labels", [])]
    count = sentence.block.comments.get("count", (0, "1"))[1]
    if not count.isdecimal() or not count.isascii():
        raise sentence.error("# count", "not a count", found=count, expected="a whole number from 0")
    id_ = sentence.json("sent_id_json", sentence.block.comments.get("sent_id", (0, ""))[1])
    has_id = {"sent_id", "sent_id_json"} & sentence.block.comments.keys()
    return Example(sentence.query, ordered(labels), sentence.count("# count", int(count)), id_ if has_id else None)


def _beside(sentence: _Sentence, found: object, points: Offsets) -> Label:
    """A label of the comment `# labels`."""
    if not isinstance(found, dict) or not isinstance(found.get("role"), str):
        raise sentence.error("# labels", "not a label", found=found, expected='{"role", "text", "start"?, "end"?}')
    confidence = sentence.confidence("# labels", found.get("confidence"))
    if found.get("start") is None:
        return sentence.plain("# labels", found["role"], found.get("text"), confidence)
    return sentence.span(
        "# labels", found["role"], start=found["start"], end=found.get("end"), offsets=points,
        text=str(found.get("text")), confidence=confidence,
    )

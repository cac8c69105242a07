"""Rows of tokens and tags (CoNLL, `datasets`) as queries with labels.

Schemes (Ramshaw and Marcus 1995; Ratinov and Roth 2009; the letters as in seqeval): IOB1, IOB2, BIOES (IOBES), BILOU,
BMES and BMEWO. Which one a column uses follows from all its tags: from the letters that occur in it or in the names of
its classes. A column with letters of two schemes, and a span without its last tag, have no certain reading: an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from task.errors import InputError, warn

Row = Mapping[str, Any]
LocatedRow = tuple[Path | str, int, Row]

TAG_COLUMNS: Final = ("ner_tags", "tags", "labels")
# The letters of each scheme; a letter means the same in all of them.
SCHEMES: Final = {"IOB1 or IOB2": "BI", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES", "BMEWO": "BMEW"}
_INSIDE, _END, _SINGLE = frozenset("IM"), frozenset("EL"), frozenset("SUW")
_TAG = re.compile(r"([BIESLUMW])-(.+)", re.DOTALL)
_SHAPES = (
    (re.compile(r"[+-]?\d+"), "A number needs its name: give the column the feature List(ClassLabel(names=[…])) of "
                              "`datasets`, or write the names into it"),
    (re.compile(r"[a-z]-.+|o"), "Write the letter as a capital"),
    (re.compile(r"[A-Za-z]_.+"), "Write `-` between letter and role"),
    (re.compile(r".+[-_][BIESLUMW]"), "Write the letter first: B-ROLE"),
)
_EXPECTED = "O, or one of B- I- E- S- L- U- M- W- with a role, such as B-brand"


def tagged(row: Row) -> bool:
    """Whether a row has tokens instead of a query."""
    return "tokens" in row and "query" not in row


def spans_of_tags(rows: Iterable[LocatedRow], names: Sequence[str] = ()) -> Iterator[LocatedRow]:
    """Rows of tokens and tags become `{"query", "labels"}`, with all their other columns; other rows stay as they are.

    The query is the tokens with a blank between them.

    Args:
        names: Names of the tag column's classes, for a scheme of which a split does not use every letter.

    Raises:
        InputError: A tag of no known shape, tags of two schemes, a span without its last tag, or tokens and tags of
            different number. Errors that depend on the whole column come after the last row.
    """
    column = _Column(names)
    for file, line, row in rows:
        yield file, line, column.labels(file, line, row) if tagged(row) else row
    column.finish()


class _Column:
    """What the tags of a column have shown so far."""

    def __init__(self, names: Sequence[str]) -> None:
        self.letters = {found[1] for name in names if (found := _TAG.fullmatch(name))}
        self.unended: InputError | None = None  # the first break of the rules of schemes that mark the last token
        self.begun: dict[str, tuple[Path | str, int, str]] = {}  # "IOB1", "IOB2" → where a span begins in its way

    def labels(self, file: Path | str, line: int, row: Row) -> Row:
        name, tokens, tags = _cells(file, line, row)
        marks = [self._mark(file, line, f"{name}.{n}", tag) for n, tag in enumerate(tags)]
        self._check_ends(file, line, name, tags, marks)
        starts, at = [], 0
        for token in tokens:
            starts.append(at)
            at += len(token) + 1
        spans: list[list[Any]] = []
        before = ("O", "")
        for token, start, (letter, role), tag in zip(tokens, starts, marks, tags, strict=True):
            follows = before[1] == role and before[0] not in _END | _SINGLE
            if letter != "O" and (letter in _INSIDE | _END) and follows:
                spans[-1][2] = start + len(token)
            elif letter != "O":
                spans.append([role, start, start + len(token)])
            if letter == "I" and not follows:
                self.begun.setdefault("IOB1", (file, line, tag))
            elif letter == "B" and before[1] != role:
                self.begun.setdefault("IOB2", (file, line, tag))
            before = (letter, role)
        query = " ".join(tokens)
        rest = {k: v for k, v in row.items() if k not in ("tokens", name)}
        labels = [{"role": r, "text": query[s:e], "start": s, "end": e} for r, s, e in spans]
        return {**rest, "query": query, "labels": labels}

    def _mark(self, file: Path | str, line: int, field: str, tag: object) -> tuple[str, str]:
        """Letter and role of a tag; `O` and nothing outside of spans."""
        if tag == "O":
            return "O", ""
        found = _TAG.fullmatch(tag) if isinstance(tag, str) else None
        if found is None:
            fix = next((fix for shape, fix in _SHAPES if shape.fullmatch(str(tag))), None)
            shown = "null" if tag is None else tag
            raise InputError("unknown tag", file=file, line=line, field=field, found=shown, expected=_EXPECTED, fix=fix)
        if found[1] not in self.letters:
            letters = self.letters | {found[1]}
            if not any(letters <= set(scheme) for scheme in SCHEMES.values()):
                raise InputError(
                    "tags of two schemes in one column", file=file, line=line, field=field, found=tag,
                    expected=f"a tag that goes with {', '.join(f'{x}-' for x in sorted(self.letters))}, as in one of: "
                             + "; ".join(f"{k} ({', '.join(v)})" for k, v in SCHEMES.items()),
                    fix="Convert the rows to one scheme",
                )
            self.letters = letters
        return found[1], found[2]

    def _check_ends(
        self, file: Path | str, line: int, name: str, tags: Sequence[str], marks: Sequence[tuple[str, str]]
    ) -> None:
        """Note the first tag that breaks the rules of BIOES and its kin; whether they hold, `finish` knows."""
        if self.unended is not None:
            return
        open_, began = "", ""  # the role of a span that has not ended, and its last tag
        for n, (letter, role) in enumerate([*marks, ("O", "")]):
            goes_on = letter in _INSIDE | _END
            if goes_on != bool(open_) or (goes_on and role != open_):
                here = tags[n] if n < len(tags) else "the end of the row"
                wrong = f"after {began!r}, which begins or continues a span, comes {here!r}" if open_ else (
                    f"{here!r} continues a span, and none has begun"
                )
                self.unended = InputError(
                    f"a span without its first or last tag: {wrong}", file=file, line=line, field=f"{name}.{n}",
                    expected="each span as B- I- E- or S- (BIOES), B- I- L- or U- (BILOU), as elsewhere in the column",
                    fix="Correct the row, or convert the column to IOB2",
                )
                return
            open_ = role if letter == "B" or letter in _INSIDE else ""
            began = tags[n] if n < len(tags) else ""

    def finish(self) -> None:
        """Judge the column as a whole."""
        if self.letters - {"B", "I"}:
            if self.unended is not None:
                raise self.unended
        elif len(self.begun) == 2:
            (file, one, begins), (_, two, also) = self.begun["IOB1"], self.begun["IOB2"]
            warn(
                f"spans begin with I- as in IOB1 (row {one}: {begins!r}) and with B- as in IOB2 (row {two}: {also!r}); "
                "a span was begun at each B-, and at each I- that does not follow its own role", file=file,
                fix="Look at these rows: a tag may be wrong",
            )


def _cells(file: Path | str, line: int, row: Row) -> tuple[str, list[str], list[Any]]:
    """The tag column's name, tokens and tags of a row."""
    name = next((c for c in TAG_COLUMNS if c in row), None)
    if name is None:
        raise InputError(
            "tokens without tags", file=file, line=line, field=TAG_COLUMNS[0], found=sorted(map(str, row)),
            expected=f"a column of tags, one of: {', '.join(TAG_COLUMNS)}",
        )
    for column in ("tokens", name):
        if not isinstance(row[column], list):
            shown = "null" if row[column] is None else row[column]
            raise InputError("not a list", file=file, line=line, field=column, found=shown, expected="a list")
    tokens, tags = row["tokens"], row[name]
    if len(tokens) != len(tags):
        raise InputError(
            f"{len(tokens)} tokens and {len(tags)} tags", file=file, line=line, field=name, found=tags,
            expected="a tag for each token",
        )
    for at, token in enumerate(tokens):
        if token is None:
            raise InputError("no token", file=file, line=line, field=f"tokens.{at}", expected="a text")
        if isinstance(token, list | dict):
            raise InputError("no token", file=file, line=line, field=f"tokens.{at}", found=token, expected="a text")
    return name, [str(t) for t in tokens], tags

"""Typed access to the fields of a row that a user's file holds, with errors that name file, line and field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from task.column_names import rename_to_query
from task.errors import InputError
from task.text import has_half_character

MOST = 2**63 - 1  # what SQLite, Arrow and NumPy hold as a whole number
_FLOATING = "pandas makes floating numbers of a column with gaps: write it with astype('Int64')"
Row = Mapping[str, Any]


class Fields:
    """The fields of one row."""

    def __init__(self, source: Path | str, line: int, row: Row) -> None:
        self.source, self.line, self.row = source, line, row

    def error(self, name: str, problem: str, expected: str | None = None, **more: Any) -> InputError:
        """An error at a field; `found` is the field's value unless it is given."""
        found = self.row.get(name) if "found" not in more else more.pop("found")
        return InputError(
            problem, file=self.source, line=self.line, field=name, found=found, expected=expected, **more
        )

    def missing(self, name: str, expected: str, fix: str | None = None) -> InputError:
        """An error at a field that the row does not have; `found` are those that it has."""
        return self.error(name, "field is missing", expected, found=sorted(map(str, self.row)), fix=fix)

    def text(self, name: str) -> str:
        """A text that must be there."""
        value = self.row.get(name)
        if value is None:
            raise self.missing(name, "a text", rename_to_query(self.row) if name == "query" else None)
        if not isinstance(value, str):
            raise self.error(name, "not a text", "a text")
        return self.whole(name, value)

    def whole(self, name: str, value: str) -> str:
        """A text, refused where it holds half a character: nothing could write it."""
        if has_half_character(value):
            raise self.error(
                name, "half a character (a lone surrogate)", "whole characters", found=value,
                fix="Remove it; a text that was cut in the middle of an emoji ends so",
            )
        return value

    def plain(self, name: str, value: Any) -> str:
        """A text, a number or a truth value as text; a list or a mapping is refused, for it would become Python's."""
        if isinstance(value, list | tuple | dict):
            raise self.error(
                name, "not a single value", "a text or a number", found=value,
                fix="Give each value an attribute of its own, or leave the attribute out",
            )
        return self.whole(name, str(value))

    def optional(self, name: str) -> str | None:
        """A text or a whole number, as text; None without one."""
        value = self.row.get(name)
        if value is None:
            return None
        if isinstance(value, str):
            return self.whole(name, value)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise self.error(name, "not a text", "a text or nothing", fix=floating(value))

    def share(self, name: str, value: object) -> float | None:
        """A number in [0, 1]; None without one."""
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise self.error(name, "not a probability", "a number from 0 to 1", found=value)
        return float(value)

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number from 0 to 2^63 − 1, also where it is written as a text."""
        value = self.row.get(name, default)
        if isinstance(value, str) and value.strip().isdecimal() and len(value) < 1000:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
            raise self.error(name, "not a count", f"a whole number from 0 to {MOST}", fix=floating(value))
        return value


def floating(value: object) -> str | None:
    """What to do about a floating number where a whole one belongs; None for other values."""
    return _FLOATING if isinstance(value, float) else None


class Total:
    """The counts of a table: their sum must be one too, because counts of equal queries are added."""

    def __init__(self) -> None:
        self.sum = 0

    def count(self, f: Fields) -> int:
        """The count of a row; 1 without one."""
        found = f.count("count", 1)
        self.sum += found
        if self.sum > MOST:
            raise f.error("count", f"the counts add up to more than {MOST}", "counts of queries or purchases")
        return found


class Unique:
    """The ids of a table: none comes twice."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: dict[str, tuple[Path | str, int]] = {}

    def add(self, value: str | None, f: Fields) -> None:
        """Note the id of a row; None is none."""
        if value is None:
            return
        if value in self.seen:
            file, line = self.seen[value]
            where = f"line {line}" if file == f.source else f"line {line} of {file}"
            raise f.error(self.name, "duplicate id", f"unique ids (first seen in {where})", found=value)
        self.seen[value] = f.source, f.line

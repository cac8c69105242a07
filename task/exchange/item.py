"""A query as an annotation tool's file holds it: labels made of it are checked against the task."""

from __future__ import annotations

from typing import Any

from task.errors import InputError
from task.exchange.annotated import Place
from task.exchange.offsets import Offsets
from task.fields import MOST
from task.labels import Label, span_problem
from task.spec import Task
from task.text import has_half_character


class Item:
    """A query and where it stands.

    Raises:
        InputError: The query is no text, holds half a character, or is longer than `data.max_query_chars`.
    """

    def __init__(self, task: Task, query: object, place: Place, field: str) -> None:
        self.task, self.place, self.query = task, place, ""
        if not isinstance(query, str):
            raise self.error(field, "not a text", found=query, expected="the query, a text")
        if has_half_character(query):
            raise self.error(field, "half a character (a lone surrogate)", found=query, expected="whole characters")
        if len(query) > task.data.max_query_chars:
            raise self.error(
                field, f"{len(query)} characters long", found=query, expected=f"at most {task.data.max_query_chars}",
                fix="Remove it, or raise data.max_query_chars",
            )
        self.query = query

    def error(self, field: str, problem: str, **details: Any) -> InputError:
        """An error at a field of this item."""
        where = ": ".join(x for x in (self.place.item, field) if x)
        return InputError(problem, file=self.place.file, line=self.place.line, field=where, **details)

    def plain(self, field: str, role: str, text: object, confidence: float | None = None) -> Label:
        """A label without a span, of a closed or a text role."""
        if not isinstance(text, str):
            raise self.error(field, "not a text", found=text, expected=f"a value of {role!r}")
        self._check(field, role, text)
        return Label(role, text, confidence=confidence)

    def span(
        self, field: str, role: object, *, start: object, end: object, offsets: Offsets, text: str | None = None,
        confidence: float | None = None,
    ) -> Label:
        """A label of an open role.

        Args:
            start: As the tool counts; `end` is one past the last.
            text: What the tool says the span's text is; None where it says nothing.
        """
        expected = "whole numbers, 0 ≤ start < end ≤ the query's length, in the unit of the tool"
        first = offsets.to_points(start) if type(start) is int else None
        last = offsets.to_points(end) if type(end) is int else None
        if first is None or last is None or first >= last:
            raise self.error(
                field, f"no span of the query {self.query!r}", found=[start, end], expected=expected,
                fix="If the tool counts in another unit, say so with --offsets",
            )
        found = self.query[first:last]
        problem = None if text is None else span_problem(self.query, text, start=first, end=last)
        if problem is not None:
            raise self.error(
                field, problem, found=[start, end], expected=f"the place of {text!r}",
                fix="If the tool counts in another unit, say so with --offsets",
            )
        if not isinstance(role, str):
            raise self.error(field, "not the name of a role", found=role, expected=self._roles())
        self._check(field, role, found, spans=True)
        return Label(role, found, first, last, confidence)

    def _check(self, field: str, role: str, text: str, *, spans: bool = False) -> None:
        if has_half_character(role + text):
            raise self.error(field, "half a character (a lone surrogate)", found=text, expected="whole characters")
        problem = self.task.label_problem(self.query, role, text)
        if problem is not None:
            fix = None if any(r.name == role for r in self.task.roles) else (
                "Rename the label in the file, or add a role of this name to the task"
            )
            raise self.error(field, problem, found=text, expected=self._roles() if fix else None, fix=fix)
        kind = self.task.role(role).kind
        if spans != (kind == "open"):
            raise self.error(
                field, f"{'a span' if spans else 'a value without a span'} for the {kind} role {role!r}", found=text,
                expected="spans for open roles, values for closed and text roles",
            )

    def _roles(self) -> str:
        return "one of: " + ", ".join(r.name for r in self.task.roles)

    def count(self, field: str, value: object) -> int:
        """How often the query was asked: a whole number from 0; 1 without one."""
        if value is None:
            return 1
        if type(value) is not int or not 0 <= value <= MOST:
            raise self.error(field, "not a count", found=value, expected="a whole number from 0")
        return value

    def id(self, field: str, value: object) -> str | None:
        """The id of the query: a text, or a whole number as one."""
        if value is None or (isinstance(value, str) and not has_half_character(value)):
            return value
        if type(value) is not int:
            raise self.error(field, "not an id", found=value, expected="a text or a whole number")
        return str(value)

    def confidence(self, field: str, value: object) -> float | None:
        """A probability in [0, 1]; None without one."""
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise self.error(field, "not a probability", found=value, expected="a number from 0 to 1")
        return float(value)

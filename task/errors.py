"""Errors that a person can act on.

Two kinds leave the program: `InputError` (exit code 2: something that the user gave us is wrong) and
`GateError` (exit code 1: the run worked and its result is not good enough). Everything else is a bug.
"""

from __future__ import annotations

from pathlib import Path


class InputError(Exception):
    """Bad input, told so that it can be mended without reading our code.

    Args:
        problem: What is wrong, as a short clause.
        file: The file that holds it.
        line: Its line, counted from 1.
        field: The field or config key, dotted.
        found: What stands there.
        expected: What should stand there.
        fix: What to do about it.
    """

    exit_code = 2

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
        found: object = None,
        expected: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.problem, self.file, self.line, self.field = problem, file, line, field
        self.found, self.expected, self.fix = found, expected, fix
        super().__init__(self.render())

    def render(self) -> str:
        """The message: `file:line: field: problem; found …; expected …. fix`."""
        where = "" if self.file is None else str(self.file)
        if self.line is not None:
            where += f":{self.line}"
        parts = [p for p in (where, self.field) if p]
        text = ": ".join([*parts, self.problem])
        if self.found is not None:
            text += f"; found {_short(self.found)}"
        if self.expected:
            text += f"; expected {self.expected}"
        if self.fix:
            text += f". {self.fix}"
        return text


class ComponentError(Exception):
    """Something that we start and do not own (vLLM, Ray) failed; the message says where its own words are."""

    exit_code = 1


class GateError(Exception):
    """A run finished and its result misses a gate that the task file sets."""

    exit_code = 1


def _short(value: object, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"

"""Errors that users can act on.

The program ends with `InputError` (exit code 2: something that the user provided is wrong), `GateError` (exit code 1:
the run worked and its result is not good enough), `IncompleteError` (exit code 1: a part of what was given could not be
done) or `ComponentError` (exit code 1: vLLM or Ray failed). Any other exception is a bug. `InputWarning` is for input
that is used, though perhaps not as its author meant it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TypedDict, Unpack


class Details(TypedDict, total=False):
    """Where a problem is, and what to do about it.

    Attributes:
        file: The file that holds it.
        line: Its line, counted from 1.
        field: The field or config key, dotted.
        found: The value found there.
        expected: What is valid there.
        fix: What to do about it.
    """

    file: str | Path | None
    line: int | None
    field: str | None
    found: object
    expected: str | None
    fix: str | None


class InputError(Exception):
    """Invalid input, described so that it can be corrected without reading our code.

    Args:
        problem: What is wrong, as a short clause.
        details: See `Details`.
    """

    exit_code = 2

    def __init__(self, problem: str, **details: Unpack[Details]) -> None:
        self.problem = problem
        self.file, self.line, self.field = details.get("file"), details.get("line"), details.get("field")
        self.found, self.expected, self.fix = details.get("found"), details.get("expected"), details.get("fix")
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


class InputWarning(UserWarning):
    """Input of which a part is not used, or is used in a way that its author may not expect.

    The command line prints each text once; a program that imports our modules can filter the category.
    """


def warn(problem: str, **details: Unpack[Details]) -> None:
    """Issue an `InputWarning`, with the parts and the form of an `InputError`."""
    warnings.warn(InputWarning(str(InputError(problem, **details))), stacklevel=2)


class ComponentError(Exception):
    """A component that we start (vLLM, Ray) failed; the message says where its log is."""

    exit_code = 1


class GateError(Exception):
    """A run finished and its result fails a gate of the task file."""

    exit_code = 1


class IncompleteError(Exception):
    """A command did less than it was given, such as queries that got no answer; run again, it does the rest."""

    exit_code = 1


_OWN = (InputError, GateError, IncompleteError, ComponentError)


def own_error(error: BaseException) -> InputError | GateError | IncompleteError | ComponentError | None:
    """The error for a person in what Ray has made of an exception in a worker; None if there is none.

    Ray (2.60) wraps one error into others, and the text of each is a traceback: also where it is an instance of ours.
    """
    waiting, seen = [error], set[int]()
    while waiting:
        e = waiting.pop(0)
        if id(e) in seen:
            continue
        seen.add(id(e))
        cause = getattr(e, "cause", None)
        if isinstance(e, _OWN) and not isinstance(cause, BaseException):
            return e
        inner = [cause, *getattr(e, "worker_failures", {}).values(), getattr(e, "controller_failure", None)]
        if type(e).__module__.partition(".")[0] == "ray":  # in our own code a second exception is a bug
            inner.append(e.__cause__)
        waiting += [x for x in inner if isinstance(x, BaseException)]
    return None


def _short(value: object, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def cause_of(error: BaseException) -> str:
    """An exception of a library in words: its kind, and what it says. A time-out of asyncio or aiohttp says nothing."""
    said = str(error).strip() or ("no answer in time" if isinstance(error, TimeoutError) else "")
    return f"{type(error).__name__}: {said}".removesuffix(": ")

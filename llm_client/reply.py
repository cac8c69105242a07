"""Parses an LLM's answer into label rows or verdicts; tolerates text around the JSON, but repairs nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from task.text import repaired_object

# Increase this when the same answer is read as other labels: stored replies are then read again, at no cost.
VERSION = 3
_OPEN = r"<(?:think|thinking|thought|reasoning)>|\[THINK\]|◁think▷|<\|channel\|>analysis"
_CLOSE = r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]|◁/think▷|<\|channel\|>final<\|message\|>"
_OPENING = re.compile(_OPEN, re.IGNORECASE)
_CLOSING = re.compile(_CLOSE, re.IGNORECASE)
_THINKING = re.compile(f"(?:{_OPEN}).*?(?:{_CLOSE})", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"```\w*")
_DECODER = json.JSONDecoder(object_hook=repaired_object)


def rows_of(content: str) -> list[dict[str, Any]] | None:
    """The label rows of an answer, or None if it has none.

    The answer is an object with `labels`, or a list. Thinking, a fence and text around it are ignored. Of several
    values an object outranks a bare list, of two of a kind one with labels outranks an empty one, and else the last one
    counts. An empty list with text around it is no answer: it may be a list of anything.
    """
    return _labels(content)[0]


def labels_start(content: str) -> int:
    """Where the JSON value begins that `rows_of` reads; 0 if there is none."""
    return _labels(content)[1]


def _labels(content: str) -> tuple[list[dict[str, Any]] | None, int]:
    found: list[dict[str, Any]] | None = None
    at, best = 0, (False, False)
    text = _without_thinking(content)
    for start, end, value in _values(text):
        named = isinstance(value, dict)
        rows = value.get("labels") if named else value
        if not isinstance(rows, list) or (rows and not any(isinstance(r, dict) for r in rows)):
            continue
        if not named and not rows and _FENCE.sub("", text[:start] + text[end:]).strip():
            continue
        if found is None or (named, bool(rows)) >= best:
            found, at, best = [r for r in rows if isinstance(r, dict)], start, (named, bool(rows))
    return found, at


def verdicts_of(content: str) -> list[bool] | None:
    """Whether each label is right, from `{"right": [...]}` in the answer to a `verify` request; None if it has none.

    The last such list counts, unless it is empty and an earlier one is not. Only true and false are verdicts: a list
    with anything else, such as "no" or 0, is none.
    """
    found: list[Any] | None = None
    for _, _, value in _values(_without_thinking(content)):
        right = value.get("right") if isinstance(value, dict) else None
        if isinstance(right, list) and (right or not found):
            found = right
    return found if found is not None and all(isinstance(x, bool) for x in found) else None


def is_one_value(text: str) -> bool:
    """Whether a text is one JSON object or list, with nothing but a fence around it."""
    try:
        return isinstance(json.loads(_FENCE.sub("", text)), dict | list)
    except (ValueError, RecursionError):
        return False


def _without_thinking(content: str) -> str:
    """The text with blanks in place of thinking.

    A chat template may have written the opening tag into the prompt: what stands before a closing tag without one is
    thinking too. Thinking that is never closed has no answer after it.
    """
    if is_one_value(content):  # a tag in one of its strings is text
        return content
    text = _THINKING.sub(lambda m: " " * len(m.group()), content)
    for closing in _CLOSING.finditer(text):
        text = " " * closing.end() + text[closing.end() :]
    opening = _OPENING.search(text)
    return text if opening is None else text[: opening.start()]


def _values(text: str) -> Iterator[tuple[int, int, Any]]:
    """Outermost JSON objects and lists of a text, in order, each with its start and end."""
    at = 0
    while at < len(text):
        starts = [p for p in (text.find("{", at), text.find("[", at)) if p >= 0]
        if not starts:
            return
        start = min(starts)
        try:
            value, at = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            at = start + 1
        else:
            yield start, at, value

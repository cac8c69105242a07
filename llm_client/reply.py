"""Parses an LLM's answer into label rows or verdicts; tolerates text around the JSON, but repairs nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

# Increase this when the same answer is read as other labels: stored replies are then read again, at no cost.
VERSION = 1
_THINKING = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_DECODER = json.JSONDecoder()


def rows_of(content: str) -> list[dict[str, Any]] | None:
    """The label rows of an answer, or None if it has none.

    The answer is an object with `labels`, or a list. Thinking before it, a fence around it and text after it are
    ignored; of several values the last one counts.
    """
    found: list[dict[str, Any]] | None = None
    for value in _values(_THINKING.sub("", content)):
        rows = value.get("labels") if isinstance(value, dict) else value
        if isinstance(rows, list) and (not rows or any(isinstance(r, dict) for r in rows)):
            found = [r for r in rows if isinstance(r, dict)]
    return found


def verdicts_of(content: str) -> list[bool] | None:
    """Whether each label is right, from `{"right": [...]}` in the answer to a `verify` request; None if it has none."""
    found: list[bool] | None = None
    for value in _values(_THINKING.sub("", content)):
        right = value.get("right") if isinstance(value, dict) else None
        if isinstance(right, list):
            found = [bool(x) for x in right]
    return found


def _values(text: str) -> Iterator[Any]:
    """Outermost JSON objects and lists of a text, in order."""
    at = 0
    while at < len(text):
        starts = [p for p in (text.find("{", at), text.find("[", at)) if p >= 0]
        if not starts:
            return
        at = min(starts)
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
        else:
            yield value


def value_logprobs(content: str, tokens: Sequence[Sequence[Any]], rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The summed log-probability of the tokens of each row's value; NaN if they cannot be found.

    Args:
        content: The raw answer.
        tokens: (text, log-probability) of each of its tokens.
        rows: Its label rows, in the order in which the answer gives them.
    """
    ends = list(accumulate(len(str(t)) for t, _ in tokens))
    whole = "".join(str(t) for t, _ in tokens)
    out: list[float] = []
    at = 0
    for row in rows:
        written = json.dumps(str(row.get("text")), ensure_ascii=False)
        start = whole.find(written, at)
        if start < 0 or not whole.startswith(content):  # an end-of-turn token may follow
            out.append(float("nan"))
            continue
        first, at = start + 1, start + len(written)
        inside = [p for (_, p), end, (t, _) in zip(tokens, ends, tokens, strict=True)
                  if end > first and end - len(str(t)) < at - 1]
        out.append(float(sum(inside)))
    return out

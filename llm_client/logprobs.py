"""Log-probabilities of an answer's tokens, in the shapes that servers give them, and those of its labels' values.

What they are conditioned on differs between servers and settings: vLLM 0.32 renormalises over what the grammar allows
if `structured_output` is on. One job has one setting, which is part of the key of every reply, so a calibration never
mixes the two.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from llm_client.reply import labels_start

_LEAST = -1_000.0  # -9999, -1e30 and minus infinity stand for "not reported"
_MOST = 0.01  # above 0 by more than rounding is no log-probability


def token_logprobs(choice: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """(text, log-probability) of each token of a choice; empty if it has none in a known shape.

    The shapes are the list `logprobs.content`, a list in the place of `logprobs`, and the lists `tokens` and
    `token_logprobs` of the older completions API. A value that is not a log-probability becomes None.
    """
    given = choice.get("logprobs")
    if isinstance(given, dict) and isinstance(given.get("tokens"), list):
        values = given.get("token_logprobs")
        if not isinstance(values, list) or len(values) != len(given["tokens"]):
            return []
        rows: Any = [{"token": t, "logprob": p} for t, p in zip(given["tokens"], values, strict=True)]
    else:
        rows = given.get("content") if isinstance(given, dict) else given
    if not isinstance(rows, list) or not all(isinstance(r, dict) and isinstance(r.get("token"), str) for r in rows):
        return []
    return [(r["token"], _logprob(r.get("logprob"))) for r in rows]


def _logprob(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _LEAST < value <= _MOST:
        return None
    return min(0.0, round(float(value), 4))


def value_logprobs(content: str, tokens: Sequence[Sequence[Any]], rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The summed log-probability of the tokens of each row's value; NaN if they cannot be found.

    Args:
        content: The raw answer.
        tokens: (text, log-probability or None) of each of its tokens; thinking before the answer and an end-of-turn
            token after it may be among them.
        rows: Its label rows, in the order in which the answer gives them.
    """
    ends = list(accumulate(len(str(t)) for t, _ in tokens))
    whole = "".join(str(t) for t, _ in tokens)
    shift = whole.find(content)
    if shift < 0 or not content:
        return [math.nan] * len(rows)
    out: list[float] = []
    at = shift + labels_start(content)
    for row in rows:
        written = json.dumps(str(row.get("text")), ensure_ascii=False)
        start = whole.find(written, at)
        if start < 0:
            out.append(math.nan)
            continue
        first, at = start + 1, start + len(written)
        inside = [_logprob(p) for (_, p), end, (t, _) in zip(tokens, ends, tokens, strict=True)
                  if end > first and end - len(str(t)) < at - 1]
        known = [p for p in inside if p is not None]
        out.append(float(sum(known)) if len(known) == len(inside) else math.nan)
    return out

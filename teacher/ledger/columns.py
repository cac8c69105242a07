"""Attempts and rows as columns of the ledger, such that SQLite takes every one of them.

What a provider sends is paid for, so nothing in it may keep it from being stored: half characters become U+FFFD,
numbers that SQLite cannot hold become the nearest that it can, and JSON has null for what is not a number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from llm_client.attempt import Attempt
from task.files import canonical_json
from task.labels import Label
from task.text import repaired
from teacher.ledger.records import LedgerRow

ATTEMPT_COLUMNS = (
    "request, query, purpose, backend, model, evidence, outcome, reply, details, error, prompt_tokens, cached_tokens, "
    "completion_tokens, cost, latency_s, created"
)
# More tokens than any call has, and few enough that SQLite's sum over millions of calls stays within 64 bits.
_MOST_TOKENS = 2**40


def attempt_values(a: Attempt, evidence: str, now: float) -> tuple[Any, ...]:
    """The values of `ATTEMPT_COLUMNS`; `evidence` is the hash of the attempt's context."""
    return (
        a.request, repaired(a.query), a.purpose, a.backend, repaired(a.model), evidence, a.outcome, _text(a.reply),
        json_text(a.details) if a.details else "{}", _text(a.error), _tokens(a.prompt_tokens), _tokens(a.cached_tokens),
        _tokens(a.completion_tokens), _finite(a.cost), _finite(a.latency_s), now,
    )


def json_text(value: Mapping[str, Any]) -> str:
    """Canonical JSON that SQLite can hold."""
    try:
        return repaired(canonical_json(value))
    except ValueError:  # NaN or an infinity, which JSON does not have
        return repaired(canonical_json(_without_nan(value)))


def row_values(r: LedgerRow, now: float) -> tuple[Any, ...]:
    """The values of the table `rows`, in its order."""
    # One column holds both kinds of signals: those of each label, and last those of the row.
    signals = [*r.label_signals, r.row_signals] if r.label_signals or r.row_signals else []
    return (
        repaired(r.query), r.count, r.request, r.rules, r.status, repaired(r.reason),
        repaired(json.dumps([x.to_json() for x in r.labels], ensure_ascii=False)), json.dumps(signals), r.confidence,
        repaired(json.dumps(list(r.verdicts), ensure_ascii=False)), now,
    )


def row_of(found: Sequence[Any]) -> LedgerRow:
    """The inverse of `row_values`."""
    query, count, request, judged, status, reason, labels, signals, confidence, verdicts, _ = found
    *label_signals, row_signals = json.loads(signals) or [{}]
    return LedgerRow(
        query, count, request, status, tuple(Label.from_json(x) for x in json.loads(labels)), confidence, reason=reason,
        verdicts=json.loads(verdicts), label_signals=label_signals, row_signals=row_signals, rules=judged,
    )


def _text(value: str | None) -> str | None:
    return None if value is None else repaired(value)


def _tokens(number: int) -> int:
    return min(max(number, 0), _MOST_TOKENS)


def _finite(number: float) -> float:
    return number if math.isfinite(number) else 0.0


def _without_nan(value: Any) -> Any:
    """A JSON value with null for NaN and infinities."""
    if isinstance(value, Mapping):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

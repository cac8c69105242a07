"""Tokens of the calls that a ledger has, for the estimate of further ones."""

from __future__ import annotations

from collections.abc import Sequence

from teacher.ledger.ledger import Ledger

# A mean of fewer calls says little.
LEAST = 20
_BLOCK = 500


def answer_tokens(ledger: Ledger, model: str) -> dict[str, float]:
    """Purpose → mean number of tokens of the answers that a model gave; purposes with few answers are left out."""
    sql = (
        "SELECT purpose, AVG(completion_tokens) FROM attempts WHERE model = ? AND outcome = 'ok' "
        "AND completion_tokens > 0 GROUP BY purpose HAVING COUNT(*) >= ?"
    )
    return {purpose: float(mean) for purpose, mean in ledger.select(sql, (model, LEAST))}


def prompt_tokens(ledger: Ledger, requests: Sequence[str]) -> dict[str, int]:
    """Request → tokens of its prompt, where its reply came with their number."""
    out: dict[str, int] = {}
    for at in range(0, len(requests), _BLOCK):
        part = requests[at : at + _BLOCK]
        marks = ",".join("?" * len(part))
        sql = (
            "SELECT request, prompt_tokens FROM attempts WHERE outcome = 'ok' AND purpose != 'repair' "
            f"AND prompt_tokens > 0 AND request IN ({marks})"
        )
        out.update(ledger.select(sql, part))
    return out

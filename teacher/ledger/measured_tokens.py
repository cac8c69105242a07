"""What the calls of a ledger took: tokens, for the estimate of further ones, and the cost of one pass over the log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

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


def pass_cost(ledger: Ledger, purposes: Sequence[str]) -> float | None:
    """The mean cost of labelling a query once: its last answer of each purpose, and its repair if it had one.

    The ledger's total also has earlier prompts and models, failed tries, gold and audits. None without any answer.

    Args:
        purposes: Of the requests that the task makes now.
    """
    wanted = [*purposes, "repair"]
    marks = ",".join("?" * len(wanted))
    # Beside MAX, SQLite takes the other columns from the row that has it.
    sql = (
        "SELECT COUNT(DISTINCT query), SUM(cost) FROM (SELECT a.query AS query, a.cost AS cost, MAX(a.id) "
        "FROM attempts a JOIN rows r ON r.query = a.query WHERE r.count > 0 AND a.outcome != 'error' "
        f"AND a.purpose IN ({marks}) GROUP BY a.query, a.purpose)"
    )
    queries, cost = ledger.select(sql, wanted)[0]
    return cost / queries if queries else None


def labelled_contexts(ledger: Ledger, most: int) -> list[tuple[str, str, dict[str, Any]]]:
    """Query, key and context of the requests that the current rows were labelled by, the latest first.

    Of other requests, such as those of an audit without context, there may be later answers to the same queries.
    """
    sql = (
        "SELECT r.query, r.request, e.content FROM rows r JOIN attempts a ON a.request = r.request "
        "JOIN evidence e ON e.hash = a.evidence WHERE a.outcome = 'ok' AND a.purpose = 'label' AND a.prompt_tokens > 0 "
        "GROUP BY r.query ORDER BY MAX(a.id) DESC LIMIT ?"
    )
    return [(query, key, json.loads(content)) for query, key, content in ledger.select(sql, (most,))]


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

"""What a labelling job could not do: queries without an answer, and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from llm_client.error_text import short_error
from teacher.ledger.ledger import ANSWERED, Ledger

_NO_ATTEMPT = "the provider returned nothing"
_BLOCK = 500
# Ids, times and amounts differ in answers that say the same.
_VARIES = re.compile(r"\b(?=\w*\d)[\w-]{8,}\b|\d+(?:\.\d+)?(?=\s*(?:m?s\b|seconds|minutes|tokens))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Queries of which at least one request has no reply in the ledger, so that the next job sends it again.

    Attributes:
        of: Number of queries to label.
        unanswered: Those without labels because no answer came.
        unusable: Those without labels because the answer cannot be read.
        signals: Those with labels of which another request (a sample, a verification) got no usable answer.
        cause: The commonest reason of the first two kinds, as the provider gave it, with its number.
    """

    of: int
    unanswered: int = 0
    unusable: int = 0
    signals: int = 0
    cause: str | None = None


def missing_answers(ledger: Ledger, queries: Sequence[str], since: int) -> Missing:
    """What is missing after a job.

    Args:
        queries: Those that the job was to label.
        since: `last_attempt` before the job.
    """
    causes: Counter[str] = Counter()
    examples: dict[str, str] = {}
    unusable = 0
    failed: set[str] = set()
    for at in range(0, len(queries), _BLOCK):
        found = ledger.rows(queries[at : at + _BLOCK])
        rows = [r for r in found.values() if r.status == "failed"]
        answered = ledger.answered(r.request for r in rows)
        open_ = [r.query for r in rows if r.request not in answered]
        failed.update(open_)
        last = _last_outcomes(ledger, open_)
        for query in open_:
            outcome, error = last.get(query, ("error", None))
            unusable += outcome == "invalid"
            text = short_error(error or _NO_ATTEMPT)
            kind = _VARIES.sub("…", text)
            causes[kind] += 1
            examples.setdefault(kind, text)
    signals = len(set(_unanswered_since(ledger, since)) - failed) if queries else 0
    cause = None
    if causes:
        kind, count = causes.most_common(1)[0]
        cause = f"{examples[kind]}, {count:,} of {len(queries):,}"
    return Missing(
        of=len(queries), unanswered=len(failed) - unusable, unusable=unusable, signals=signals, cause=cause
    )


def unreadable_verifications(ledger: Ledger, queries: Collection[str]) -> int:
    """Number of queries with a verification that could not be read each time and is not asked for again."""
    sql = (
        f"SELECT DISTINCT query FROM attempts WHERE purpose = 'verify' AND outcome = 'invalid' AND {ANSWERED} "
        "AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.query = attempts.query AND a.purpose = 'verify' "
        "AND a.outcome = 'ok')"
    )
    return sum(query in queries for (query,) in ledger.select(sql))


def last_attempt(ledger: Ledger) -> int:
    """The id of the newest attempt; 0 if there is none."""
    return int(ledger.select("SELECT COALESCE(MAX(id), 0) FROM attempts")[0][0])


def _last_outcomes(ledger: Ledger, queries: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """Query → outcome and error of its newest attempt; queries without an attempt are left out."""
    marks = ",".join("?" * len(queries))
    sql = f"SELECT query, outcome, error, MAX(id) FROM attempts WHERE query IN ({marks}) GROUP BY query"
    return {q: (outcome, error) for q, outcome, error, _ in ledger.select(sql, queries)}


def _unanswered_since(ledger: Ledger, attempt: int) -> list[str]:
    """Queries with a request that was tried after an attempt and has no reply."""
    sql = (
        "SELECT DISTINCT a.query FROM attempts a WHERE a.id > ? AND NOT EXISTS (SELECT 1 FROM attempts "
        f"WHERE attempts.request = a.request AND {ANSWERED})"
    )
    return [q for (q,) in ledger.select(sql, (attempt,))]

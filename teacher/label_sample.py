"""Labelled queries to look at: a sample by status, role and confidence, with context and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from task.files import sha256_json
from task.readers import Item
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import STATUSES, LedgerRow

if TYPE_CHECKING:
    from eval.page_schema import LabelledQuery

_OF_A_STATUS, _OF_A_ROLE = 12, 6
_EVIDENCE_SHOWN = 4  # items of each kind of retrieved context


def sample(
    rows: Iterable[LedgerRow], roles: Sequence[str], ledger: Ledger, catalogue: Sequence[Item]
) -> list[LabelledQuery]:
    """Some rows of each status and of each role, from the least to the most confident.

    Args:
        rows: Of the whole job.
        roles: The task's roles.

    Returns:
        By status and confidence; the same rows give the same sample. A role that no row has is not in it.
    """
    found = list(rows)
    chosen: dict[str, LedgerRow] = {}
    for status in STATUSES:
        of_status = ((r.confidence, r) for r in found if r.status == status)
        chosen.update((r.query, r) for r in _spread(of_status, _OF_A_STATUS))
    for role in roles:
        of_role = (
            (min(r.confidence if x.confidence is None else x.confidence for x in r.labels if x.role == role), r)
            for r in found if any(x.role == role for x in r.labels)
        )
        chosen.update((r.query, r) for r in _spread(of_role, _OF_A_ROLE))
    ordered = sorted(chosen.values(), key=lambda r: (STATUSES.index(r.status), r.confidence, r.query))
    evidence = shown_context(ledger, catalogue, [r.query for r in ordered])
    return [{
        "query": r.query, "count": r.count, "status": r.status, "reason": r.reason,
        "confidence": round(r.confidence, 6), "labels": [x.to_json() for x in r.labels],
        "verdicts": [dict(v) for v in r.verdicts], "evidence": evidence.get(r.query, ""),
    } for r in ordered]


def _spread(rows: Iterator[tuple[float, LedgerRow]], most: int) -> list[LedgerRow]:
    """At most `most` rows at even distances of rank; equal confidences in an order that is not the alphabet's."""
    ranked = [r for _, r in sorted(rows, key=lambda x: (x[0], sha256_json(x[1].query)))]
    if len(ranked) <= most:
        return ranked
    return [ranked[round(i * (len(ranked) - 1) / (most - 1))] for i in range(most)]


def shown_context(ledger: Ledger, catalogue: Iterable[Item], queries: Sequence[str]) -> dict[str, str]:
    """The teacher's retrieved context of queries as text, shortened; items by their titles."""
    titles = {x.id: x.title for x in catalogue}
    return {query: _context(found, titles) for query, found in ledger.evidence(queries).items()}


def _context(evidence: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    return " · ".join(
        f"{kind}: {_entries(found, titles)}"
        for kind, found in evidence.items() if found and not isinstance(found, str)
    )


def _entries(found: Mapping[str, Any] | Sequence[Any], titles: Mapping[str, str]) -> str:
    """The first entries of a kind of context: of one by role the first values of each, of purchases the items."""
    if isinstance(found, Mapping) and all(isinstance(values, list) for values in found.values()):
        return "; ".join(f"{role} {', '.join(map(str, values[:_EVIDENCE_SHOWN]))}" for role, values in found.items())
    if isinstance(found, Mapping):
        shown = list(found.items())[:_EVIDENCE_SHOWN]
        return "; ".join(f"{titles.get(item, item)} ({number})" for item, number in shown)
    return "; ".join(_entry(x, titles) for x in found[:_EVIDENCE_SHOWN])


def _entry(entry: Any, titles: Mapping[str, str]) -> str:
    """An item, a query or a labelled example."""
    if isinstance(entry, Mapping):
        labels = ", ".join(f"{x['role']} {x['text']}" for x in entry["labels"])
        return f"{entry['query']} ({labels or 'nothing'})"
    return titles.get(str(entry), str(entry))

"""What people decided about queries, in the place of the teacher's labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from teacher.ledger.records import LedgerRow
from teacher.ledger.reviews import Verdict

NOTHING_DECIDED: Final[Mapping[str, Verdict]] = MappingProxyType({})
_LEFT_OUT: Final = {"rejected": "rejected by a person", "disputed": "people disagree"}


def apply_verdicts(
    rows: Sequence[LedgerRow], verdicts: Mapping[str, Verdict]
) -> tuple[list[LedgerRow], Counter[str]]:
    """The rows as people decided them, and how many are not learned for it, by reason.

    Rows with people's labels come first, so that of duplicates they are the ones that are kept; queries that the log
    does not have are added.
    """
    left_out: Counter[str] = Counter()
    if not verdicts:
        return list(rows), left_out
    known = {r.query: r for r in rows}
    first = []
    for query, verdict in verdicts.items():
        if verdict.gold:
            left_out["gold by a person's decision"] += query in known
        elif verdict.outcome == "labels":
            row = known.get(query) or LedgerRow(query, verdict.count, "", "accepted", (), 1.0)
            first.append(replace(row, status="accepted", labels=verdict.labels, confidence=1.0, reason=""))
        else:
            left_out[_LEFT_OUT[verdict.outcome]] += query in known
    return [*first, *(r for r in rows if r.query not in verdicts)], +left_out

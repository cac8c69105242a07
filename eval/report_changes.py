"""What changed since an earlier report: figures that both have, side by side, those that moved first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Figure = Mapping[str, Any]


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Compare two reports.

    Returns:
        `since`: bundle and time of the earlier one; `rows`: `what`, `unit`, `before`, `now`, and `clear`: whether the
        intervals are apart. They are not paired, so what is not clear may still be real; `limbeck compare` pairs.
    """
    rows = []
    old = {what: figure for what, _, figure in _figures(before)}
    for what, unit, figure in _figures(now):
        if what in old:
            rows.append({
                "what": what, "unit": unit, "before": dict(old[what]), "now": dict(figure),
                "clear": _apart(old[what], figure),
            })
    return {
        "since": {"bundle": before["bundle"]["id"], "finished": before["finished"]},
        "rows": sorted(rows, key=lambda r: not r["clear"]),
    }


def _figures(report: Mapping[str, Any]) -> Iterator[tuple[str, str, Figure]]:
    for system, found in report["systems"].items():
        for name in ("precision", "recall", "f1"):
            yield f"{system}: {name}", "%", found["value"][name]
    served = report["systems"][report["served"]]
    for role, found in served["value"]["roles"].items():
        yield f"{report['served']}: F1 of {role}", "%", found["f1"]
    latency = report.get("latency") or {}
    for kind in ("hit", "miss"):
        for name in ("p50", "p99"):
            figure = (latency.get(kind) or {}).get(f"{name}_ms")
            if figure:
                yield f"{kind}: {name}", "ms", figure
    money = (report.get("cost") or {}).get("per_million", {}).get("served")
    if money is not None:
        yield "a million queries as served", "$", {"value": money, "low": money, "high": money}


def _apart(a: Figure, b: Figure) -> bool:
    ends = [a.get("low"), a.get("high"), b.get("low"), b.get("high")]
    if any(x is None for x in ends):
        return False
    return bool(a["low"] > b["high"] or b["low"] > a["high"])

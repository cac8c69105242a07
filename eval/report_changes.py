"""Changes since an earlier report: the figures that both have side by side, clear changes first."""

from __future__ import annotations

from collections.abc import Iterator

from eval.latency_schema import CacheGroups
from eval.quality_schema import Estimate
from eval.report_schema import Change, Changes, Report


def changes(before: Report, now: Report) -> Changes:
    """Compare two reports.

    A change is clear where the intervals do not overlap. The intervals are not paired, so a change that is not clear
    may still be real; `limbeck compare` pairs.
    """
    rows: list[Change] = []
    old = {what: figure for what, _, figure in _figures(before)}
    for what, unit, figure in _figures(now):
        if what in old:
            rows.append({
                "what": what, "unit": unit, "before": old[what], "now": figure,
                "clear": _apart(old[what], figure),
            })
    return {
        "since": {"bundle": before["bundle"]["id"], "finished": before["finished"]},
        "rows": sorted(rows, key=lambda r: not r["clear"]),
    }


def _figures(report: Report) -> Iterator[tuple[str, str, Estimate]]:
    """(what, unit, estimate)."""
    for system, found in report["systems"].items():
        by_value = found["value"]
        for name, figure in (("precision", by_value["precision"]), ("recall", by_value["recall"]),
                             ("f1", by_value["f1"])):
            yield f"{system}: {name}", "%", figure
    for role, of_role in report["systems"][report["served"]]["value"]["roles"].items():
        yield f"{report['served']}: F1 of {role}", "%", of_role["f1"]
    steady = report["latency"]
    latency: CacheGroups = steady if steady and steady["valid"] else {}  # of an invalid run nothing can be said
    for kind, group in (("hit", latency.get("hit")), ("miss", latency.get("miss"))):
        for name, found_ms in (("p50", group["p50_ms"]), ("p99", group["p99_ms"])) if group else ():
            if found_ms:
                yield f"{kind}: {name}", "ms", found_ms
    money = report["cost"]["per_million"]["served"]
    yield "a million queries as served", "$", {"value": money, "low": money, "high": money}


def _apart(a: Estimate, b: Estimate) -> bool:
    """Whether two intervals do not overlap."""
    if a["low"] is None or a["high"] is None or b["low"] is None or b["high"] is None:
        return False
    return a["low"] > b["high"] or b["low"] > a["high"]

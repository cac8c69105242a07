"""What a round cost, and after how many queries that is earned back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from eval.cost import machine_prices
from eval.report_schema import BreakEven, CostReport
from task.settings import Cost

_LABELLING: Final = frozenset({"drift", "picks", "label"})  # stages on the machine that labels


def machine_money(manifests: Mapping[str, Mapping[str, Any]], settings: Cost) -> float:
    """Dollars for the machines of a round's stages, at the prices of `eval.cost`, or of the list for that machine.

    Args:
        manifests: By stage.
    """
    total = 0.0
    for name, manifest in manifests.items():
        prices = machine_prices(settings, manifest.get("device") or {})
        hour = prices["label_hour" if name in _LABELLING else "train_hour"]
        total += float(manifest["wall_s"]) / 3600 * hour
    return round(total, 4)


def break_even(money: float, cost: CostReport | None) -> BreakEven | None:
    """After how many queries, and days of traffic, a service that would else ask the teacher has paid for a round.

    Args:
        money: Dollars for labels and machines.
        cost: Of the run's report: what a query costs, asked of the teacher and as it is served. None without one.

    Returns:
        None where that is not known, or the teacher costs no more.
    """
    if cost is None or cost.get("imported"):
        return None
    saved = (cost["per_million"]["teacher"] - cost["per_million"]["served"]) / 1e6
    if not saved > 0:
        return None
    queries = money / saved
    a_day = cost["queries_a_day"]
    return {"queries": round(queries), "days": round(queries / a_day, 3) if a_day else None}

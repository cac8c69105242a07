"""The Pareto front of F1 and latency."""

from __future__ import annotations

from collections.abc import Sequence

from eval.page_schema import Point


def pareto_front(systems: Sequence[Point]) -> list[bool]:
    """Whether each system is on the Pareto front: no other dominates it.

    A system dominates another if its F1 is at least as high and its latency at most as high, and one of them is better.
    A system without a latency is never on it.
    """
    return [s["p50_ms"] is not None and not any(_dominates(other, s) for other in systems) for s in systems]


def _dominates(a: Point, b: Point) -> bool:
    if a["p50_ms"] is None or b["p50_ms"] is None:
        return False
    faster = _latency(b["p50_ms"]["value"]) - _latency(a["p50_ms"]["value"])
    better = (a["f1"]["value"] or 0.0) - (b["f1"]["value"] or 0.0)
    return (faster > 0 and better >= 0) or (faster >= 0 and better > 0)


def _latency(value: float | None) -> float:
    """An infinite median, of a system that mostly failed, is None in JSON."""
    return 1e12 if value is None else value

"""Plots say no more than the figures do."""

from __future__ import annotations

from eval import plots
from eval.drawing import COLOURS
from eval.quality_schema import Estimate


def test_a_difference_of_few_queries_is_drawn_without_an_interval() -> None:
    """Two queries that both got better have an interval without width, which looks like certainty."""
    rows: list[tuple[str, Estimate]] = [
        ("head", {"value": 0.33, "low": 0.33, "high": 0.33}), ("tail", {"value": 0.02, "low": 0.01, "high": 0.03}),
    ]
    none, one, both = (
        plots.differences(6.4, rows, "points", few).count(COLOURS[2]) for few in (["head", "tail"], ["head"], [])
    )
    assert none == 0
    assert 0 < one < both

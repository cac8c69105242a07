"""Line plots for a template that draws them (`plot.svg.j2`): matplotlib would take longer to import than the console.

A plot has a title and a description for screen readers; its numbers are in a table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

WIDTH, HEIGHT = 480.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 470.0, 12.0, 190.0
"""Edges of the plot itself, in units of the drawing."""
_MOST_POINTS: Final = 300
_MOST_ROWS: Final = 20
_TICKS: Final = 5
_FLAT: Final = 1e-9

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot, and its numbers; places are in units of the drawing, which is `WIDTH` by `HEIGHT`.

    Attributes:
        x: Name of the horizontal axis.
        y: Name or unit of the vertical axis.
        described: What a screen reader says.
        points: The places of the points of the line.
        dots: Whether each of them is marked.
        across: Place and text of the numbers below the plot.
        up: The same of the numbers beside it.
        rows: Some of the points as text, the first and the last among them.
    """

    title: str
    x: str
    y: str
    described: str
    points: tuple[Point, ...]
    dots: bool
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    rows: tuple[tuple[str, str], ...]

    @property
    def line(self) -> str:
        """The points as an SVG polyline has them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


def training_plots(history: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Loss and F1 on development rows by step; none of a training that has no step yet."""
    loss = [(float(h["step"]), float(h["loss"])) for h in history if "loss" in h]
    f1 = [(float(h["step"]), 100 * float(h["dev_f1"])) for h in history if h.get("dev_f1") is not None]
    out = []
    if loss:
        out.append(plot("Training loss", loss, x="step", y="nats per symbol", logarithmic=min(v for _, v in loss) > 0))
    if f1:
        out.append(plot("F1 on development rows", f1, x="step", y="%", dots=True, between=(0.0, 100.0)))
    return out


def plot(
    title: str, points: Sequence[Point], *, x: str, y: str, logarithmic: bool = False, dots: bool = False,
    between: Point | None = None,
) -> Plot:
    """A line through points in the order of x.

    Args:
        points: At least one; those that are not finite are left out of the line.
        x: Name of the horizontal axis.
        y: Name or unit of the vertical axis.
        logarithmic: The vertical axis; all values are positive then.
        dots: Whether each point is marked.
        between: Ends of the vertical axis; by default those of the values.
    """
    rows = tuple((f"{px:,g}", f"{py:,.4g}") for px, py in thinned(points, _MOST_ROWS))
    shown = thinned([p for p in points if math.isfinite(p[1])], _MOST_POINTS)
    if not shown:
        return Plot(title, x, y, "Nothing that can be drawn.", (), dots, (), (), rows)
    scale = math.log10 if logarithmic else float
    left, right = shown[0][0], max(shown[-1][0], shown[0][0] + 1.0)
    low, high = between or (min(scale(v) for _, v in shown), max(scale(v) for _, v in shown))
    if high - low < _FLAT * max(1.0, abs(low)):
        low, high = low - 0.5, high + 0.5

    def across(value: float) -> float:
        return LEFT + (value - left) / (right - left) * (RIGHT - LEFT)

    def up(value: float) -> float:
        return BOTTOM - (scale(value) - low) / (high - low) * (BOTTOM - TOP)

    return Plot(
        title, x, y, f"From {shown[0][1]:.4g} at {x} {shown[0][0]:g} to {shown[-1][1]:.4g} at {x} {shown[-1][0]:g}.",
        tuple((across(px), up(py)) for px, py in shown), dots,
        tuple((across(v), f"{v:,g}") for v in ticks(left, right)),
        tuple((up(v), f"{v:,.4g}") for v in (powers(low, high) if logarithmic else ticks(low, high))), rows,
    )


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` of the points at even distances, with the first and the last."""
    if len(points) <= most:
        return list(points)
    step = (len(points) - 1) / (most - 1)
    return [points[round(i * step)] for i in range(most)]


def ticks(low: float, high: float) -> list[float]:
    """At most some five round numbers between two."""
    step = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    wide = next(step * k for k in (1, 2, 5, 10) if (high - low) / (step * k) <= _TICKS)
    return [round(wide * i, 10) for i in range(math.ceil(low / wide - 1e-9), math.floor(high / wide + 1e-9) + 1)]


def powers(low: float, high: float) -> list[float]:
    """Numbers for a logarithmic axis between two powers of ten: 1, 2 and 5 of few decades, powers of ten of many."""
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [
            k * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for k in factors
            if low - 1e-9 <= math.log10(k * 10.0**e) <= high + 1e-9
        ]
        if len(found) <= _TICKS + 1:
            return found or [10.0**low, 10.0**high]
    return found[:: -(-len(found) // _TICKS)]

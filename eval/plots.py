"""Plots of quality, cost and training; `width` is in inches. A page shows each in two widths (`eval.drawing`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.drawing import COLOURS, INK, canvas, label, legend_above, logarithmic, svg
from eval.page_schema import RoundRow, SweepVariant
from eval.quality_schema import Estimate, ReliabilityBin, RiskPoint
from eval.report_schema import CacheSize


def dots(width: float, systems: Mapping[str, Mapping[str, Estimate]], names: Sequence[str]) -> str:
    """F1 of each system with its interval, a line for each name; the axis spans the intervals, so that they differ.

    Args:
        systems: By system and name; an estimate that is not defined is left out.
    """
    figure, axes = canvas(width, 0.9 + 0.1 * len(systems) + (0.12 + 0.13 * len(systems)) * max(1, len(names)))
    for number, (system, found) in enumerate(systems.items()):
        shift = 0.7 * ((number + 0.5) / len(systems) - 0.5)
        colour, named = COLOURS[number % len(COLOURS)], system
        for at, name in enumerate(names):
            if name not in found or found[name]["value"] is None:
                continue
            value, low, high = _percentages(found[name])
            axes.plot([low, high], [at + shift] * 2, color=colour, linewidth=1.2)
            axes.plot(value, at + shift, "o", markersize=4, color=colour, label=named)
            named = "_"  # one entry in the legend for each system
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("F1, %")
    axes.grid(alpha=0.2, axis="x")
    if systems:
        legend_above(axes, width)
    return svg(figure)


def differences(
    width: float, rows: Sequence[tuple[str, Estimate]], what: str, few: Collection[str] = ()
) -> str:
    """Paired differences in points with their intervals, one line each; zero is marked, and is always on the axis.

    Green: the whole interval is above zero; red: below. A difference that is not defined is left out.

    Args:
        few: Names of rows that rest on too few queries: resampling two alike gives an interval without width.
    """
    figure, axes = canvas(width, 0.7 + 0.26 * max(1, len(rows)))
    for at, (name, difference) in enumerate(rows):
        if difference["value"] is None:
            continue
        value, low, high = _percentages(difference)
        if name in few:
            axes.plot(value, at, marker="o", markersize=5, color=INK, fillstyle="none")
            continue
        colour = COLOURS[2] if low > 0 else COLOURS[3] if high < 0 else INK
        axes.plot([low, high], [at, at], color=colour, linewidth=1.5)
        axes.plot(value, at, marker="o", markersize=5, color=colour)
    axes.axvline(0, color=INK, linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    axes.set_xlabel(what, wrap=True)
    axes.grid(alpha=0.2, axis="x")
    return svg(figure)


def cache_sizes(width: float, sizes: Sequence[CacheSize], now: int) -> str:
    """Cost of a million queries by the size of the head cache; the dashed line is the bundle's size."""
    figure, axes = canvas(width, 2.4)
    axes.plot([max(1, s["queries"]) for s in sizes], [s["per_million"] for s in sizes], color=COLOURS[0], marker="o",
              markersize=3)
    if now:
        axes.axvline(now, color=INK, linewidth=0.8, linestyle="--")
    logarithmic(axes.xaxis)
    axes.set_ylim(bottom=0)
    label(axes, "cached queries", "$ per million queries")
    return svg(figure)


@dataclass(frozen=True, slots=True)
class ParetoPoint:
    """A system's F1 and median latency in ms; `best` where it is on the Pareto front."""

    name: str
    f1: Estimate
    p50_ms: Estimate
    best: bool


def pareto(width: float, systems: Sequence[ParetoPoint]) -> str:
    """F1 against the median latency, both with intervals; systems on the Pareto front are filled."""
    figure, axes = canvas(width, 3.2)
    for number, p in enumerate(systems):
        colour = COLOURS[number % len(COLOURS)]
        x, x_low, x_high = (np.nan if v is None else v for v in _numbers(p.p50_ms))
        y, y_low, y_high = (np.nan if v is None else 100 * v for v in _numbers(p.f1))
        axes.plot([x_low, x_high], [y, y], color=colour, linewidth=1)
        axes.plot([x, x], [y_low, y_high], color=colour, linewidth=1)
        axes.plot(x, y, "o", markersize=6, markeredgecolor=colour, markerfacecolor=colour if p.best else "none",
                  label=p.name)
    logarithmic(axes.xaxis)
    label(axes, "median latency, milliseconds", "F1, %")
    legend_above(axes, width)
    return svg(figure)


def reliability(width: float, bins: Sequence[ReliabilityBin]) -> str:
    """Reliability diagram: accuracy against confidence, a point per bin of equal mass; the diagonal is calibrated."""
    figure, axes = canvas(width, 3.2)
    low = min((100 * min(b["confidence"], b["right"]) for b in bins), default=0.0)
    axes.plot([low, 100], [low, 100], color=INK, linewidth=0.8, linestyle="--")
    axes.plot([100 * b["confidence"] for b in bins], [100 * b["right"] for b in bins], color=COLOURS[0], marker="o",
              markersize=4)
    label(axes, "confidence, %", "accuracy, %")
    return svg(figure)


def risk_coverage(width: float, points: Sequence[RiskPoint], threshold: float | None) -> str:
    """Risk-coverage curve: error rate of the labels above a confidence threshold, against their share."""
    figure, axes = canvas(width, 3.2)
    axes.plot([100 * p["coverage"] for p in points], [100 * p["risk"] for p in points], color=COLOURS[0])
    kept = [p for p in points if threshold is not None and p["threshold"] >= threshold]
    if kept:
        axes.plot(100 * kept[-1]["coverage"], 100 * kept[-1]["risk"], marker="o", color=COLOURS[3], label="threshold")
        axes.legend(loc="upper left")
    axes.set_ylim(bottom=0)
    label(axes, "coverage, %", "error rate, %")
    return svg(figure)


def histogram(values: Sequence[float], what: str, of: str) -> str:
    """Histogram of values in [0, 1], as a file of a curriculum.

    A curriculum's digest covers it: drawn otherwise, it would make the same rows look new and be trained again.
    """
    figure, axes = canvas(3.6, 2.4, None)
    axes.hist(values, bins=25, range=(0.0, 1.0), color=COLOURS[0])
    axes.set_xlabel(what)
    axes.set_ylabel(of)
    return svg(figure, salt="limbeck", bbox_inches="tight")


def f1_by_parameters(width: float, variants: Sequence[SweepVariant], chosen: str) -> str:
    """F1 with its interval against the number of trained parameters, on a log axis."""
    figure, axes = canvas(width, 3.0)
    for v in variants:
        value, low, high = (100 * (x or 0.0) for x in _numbers(v["f1"]))
        colour = COLOURS[2] if v["name"] == chosen else COLOURS[0]
        axes.plot([v["trained"]] * 2, [low, high], color=colour, linewidth=1.2)
        axes.plot(v["trained"], value, marker="o", markersize=4, color=colour)
        axes.annotate(v["name"], (v["trained"], value), xytext=(4, 2), textcoords="offset points", fontsize=7)
    logarithmic(axes.xaxis)
    label(axes, "trained parameters", "dev F1, %")
    return svg(figure)


def learning_curve(width: float, history: Sequence[Mapping[str, Any]]) -> str:
    """Training loss and dev F1 by step."""
    figure, axes = canvas(width, 2.6)
    axes.plot([h["step"] for h in history], [h["loss"] for h in history], color=COLOURS[0], linewidth=0.9)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss, nats per symbol", color=COLOURS[0])
    logarithmic(axes.yaxis)
    points = [(h["step"], 100 * h["dev_f1"]) for h in history if "dev_f1" in h]
    if points:
        right = axes.twinx()
        right.plot(*zip(*points, strict=True), color=COLOURS[1], marker="o", markersize=3)
        right.set_ylabel("dev F1, %", color=COLOURS[1])
        right.set_ylim(0, 100)
    return svg(figure)


def f1_by_round(width: float, rounds: Sequence[RoundRow]) -> str:
    """F1 on gold of the student that each round began with and of the one that it made, with intervals.

    A full dot is a student that was released, an empty one a student that was refused.
    """
    figure, axes = canvas(width, 2.8)
    numbers = [r["number"] for r in rounds if r["gold"] is not None]
    for r in rounds:
        for shift, colour, name, found in (
            (-0.08, COLOURS[2], "released before", r["gold_before"]), (0.08, COLOURS[0], "new", r["gold"]),
        ):
            if found is None:
                continue
            value, low, high = _percentages(found)
            full = found is not r["gold"] or r["ending"] == "released"
            axes.errorbar(
                [r["number"] + shift], [value], yerr=[[max(0.0, value - low)], [max(0.0, high - value)]], fmt="o",
                color=colour, markersize=5, markerfacecolor=colour if full else "none", elinewidth=1,
                label=name if r["number"] == numbers[0] else None,
            )
    axes.set_xticks(numbers)
    label(axes, "round", "F1 on gold, %")
    legend_above(axes, width)
    return svg(figure)


def _percentages(found: Estimate) -> tuple[float, float, float]:
    """Value and bounds in %; where a bound is not known, the value."""
    value = found["value"] or 0.0
    low = value if found["low"] is None else found["low"]
    high = value if found["high"] is None else found["high"]
    return 100 * value, 100 * low, 100 * high


def _numbers(estimate: Estimate) -> tuple[float | None, float | None, float | None]:
    return estimate["value"], estimate["low"], estimate["high"]

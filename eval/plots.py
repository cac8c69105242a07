"""Plots as SVG text, drawn with matplotlib so that a report needs neither network nor scripts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("svg")
import matplotlib.pyplot as plt

from eval.latency_schema import SweepRate, percentile_of
from eval.page_schema import SweepVariant
from eval.quality_schema import Estimate, Quality, ReliabilityBin, RiskPoint
from eval.report_schema import CacheSize

COLOURS = ("#2563eb", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#64748b", "#ec4899")
_INK = "#64748b"
_MISSING: Estimate = {"value": None, "low": None, "high": None}
mpl.rcParams.update({
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": _INK, "axes.labelcolor": _INK, "xtick.color": _INK,
    "ytick.color": _INK, "text.color": _INK, "legend.frameon": False, "figure.facecolor": "none",
    "axes.facecolor": "none", "svg.hashsalt": "limbeck",
})


def f1_by_role(systems: Mapping[str, Quality]) -> str:
    """Bars of F1 per role and system, with intervals; roles without support are left out."""
    names = [r for r, v in next(iter(systems.values()))["value"]["roles"].items() if v["support"]]
    tilted: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if len(names) > 6 else {}
    return _f1_bars(
        {system: [q["value"]["roles"][n]["f1"] for n in names] for system, q in systems.items()}, names,
        size=(max(7.0, 0.8 * len(names)), 3.0), **tilted,
    )


def f1_by_slice(systems: Mapping[str, Quality], dimension: str, names: Sequence[str]) -> str:
    """Bars of micro-F1 per part of a dimension and system, with intervals."""
    cut = {k: v["slices"][dimension] for k, v in systems.items() if dimension in v.get("slices", {})}
    f1 = {system: [of[n]["f1"] if n in of else _MISSING for n in names] for system, of in cut.items()}
    return _f1_bars(f1, names, size=(7.0, 2.8))


def _f1_bars(
    f1: Mapping[str, Sequence[Estimate]], names: Sequence[str], *, size: tuple[float, float], **ticks: Any
) -> str:
    """A group of bars for each name, with a bar for each system."""
    figure, axes = plt.subplots(figsize=size)
    width = 0.8 / max(1, len(f1))
    for number, (system, found) in enumerate(f1.items()):
        x = np.arange(len(names)) + (number - (len(f1) - 1) / 2) * width
        values = [100 * (e["value"] or 0.0) for e in found]
        bounds = [
            [max(0.0, v - 100 * e["low"]) if e["low"] is not None else 0.0 for e, v in zip(found, values, strict=True)],
            [max(0.0, 100 * e["high"] - v) if e["high"] is not None else 0.0
             for e, v in zip(found, values, strict=True)],
        ]
        axes.bar(x, values, width * 0.92, color=COLOURS[number % len(COLOURS)], label=system)
        axes.errorbar(x, values, yerr=bounds, fmt="none", ecolor=_INK, elinewidth=0.8, capsize=1.5)
    axes.set_xticks(range(len(names)), names, **ticks)
    axes.set_ylabel("F1, %")
    axes.set_ylim(0, 100)
    _legend_above(axes)
    return _svg(figure)


def latency_cdf(groups: Mapping[str, Sequence[float]]) -> str:
    """Share of requests answered within a time, hits and misses apart; milliseconds on a log axis."""
    figure, axes = plt.subplots(figsize=(7.0, 2.8))
    for number, (name, seconds) in enumerate(groups.items()):
        values = np.sort([s for s in seconds if np.isfinite(s)]) * 1e3
        if len(values):
            share = np.arange(1, len(values) + 1) / max(1, len(seconds)) * 100
            axes.step(values, share, where="post", color=COLOURS[number], label=f"{name} ({len(seconds)})")
    axes.set_xscale("log")
    _label(axes, "milliseconds from the scheduled departure", "% of requests")
    axes.legend(loc="lower right")
    return _svg(figure)


def latency_over_time(groups: Mapping[str, Sequence[tuple[float, float]]], every_s: float = 1.0) -> str:
    """Median and 99th percentile of the requests of each second, by kind: shows stalls and drift, which a CDF hides.

    Args:
        groups: (seconds from the start, seconds of latency) of each request.
    """
    figure, axes = plt.subplots(figsize=(7.0, 2.8))
    for number, (name, samples) in enumerate(groups.items()):
        if not len(samples):
            continue
        at, latency = np.array(samples).T
        bins = (at // every_s).astype(int)
        seconds = [b for b in np.unique(bins) if np.isfinite(latency[bins == b]).any()]
        for quantile, style in ((0.5, "-"), (0.99, ":")):
            values = [1e3 * np.quantile(latency[(bins == b) & np.isfinite(latency)], quantile) for b in seconds]
            label = f"{name}, {'p50' if quantile == 0.5 else 'p99'}"
            axes.plot([s * every_s for s in seconds], values, style, color=COLOURS[number], linewidth=1, label=label)
    axes.set_yscale("log")
    _label(axes, "seconds from the start", "milliseconds")
    _legend_above(axes)
    return _svg(figure)


def latency_by_rate(rates: Sequence[SweepRate]) -> str:
    """Percentiles against the offered rate until the server saturates; hollow where the rate was not sustained."""
    figure, axes = plt.subplots(figsize=(7.0, 2.8))
    for number, name in enumerate(("p50", "p95", "p99")):
        found = [(r["rate"], percentile_of(r["blended"], name), r["holds"]) for r in rates]
        points = [(rate, e["value"], holds) for rate, e, holds in found if e and e["value"] is not None]
        if points:
            axes.plot([p[0] for p in points], [p[1] for p in points], color=COLOURS[number], linewidth=1, label=name)
            for rate, value, holds in points:
                face = COLOURS[number] if holds else "none"
                axes.plot(rate, value, "o", markersize=4, markerfacecolor=face, markeredgecolor=COLOURS[number])
    axes.set_xscale("log")
    axes.set_yscale("log")
    _label(axes, "requests per second", "milliseconds")
    axes.legend(loc="upper left")
    return _svg(figure)


def cache_sizes(sizes: Sequence[CacheSize], now: int) -> str:
    """Cost of a million queries by the size of the head cache; the dashed line is the bundle's size."""
    figure, axes = plt.subplots(figsize=(7.0, 2.4))
    axes.plot([max(1, s["queries"]) for s in sizes], [s["per_million"] for s in sizes], color=COLOURS[0], marker="o",
              markersize=3)
    if now:
        axes.axvline(now, color=_INK, linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    _label(axes, "cached queries", "$ per million queries")
    return _svg(figure)


@dataclass(frozen=True, slots=True)
class ParetoPoint:
    """A system's F1 and median latency in ms; `best` where it is on the Pareto front."""

    name: str
    f1: Estimate
    p50_ms: Estimate
    best: bool


def pareto(systems: Sequence[ParetoPoint]) -> str:
    """F1 against the median latency, both with intervals; systems on the Pareto front are filled."""
    figure, axes = plt.subplots(figsize=(7.0, 3.2))
    for number, p in enumerate(systems):
        colour = COLOURS[number % len(COLOURS)]
        x, x_low, x_high = (np.nan if v is None else v for v in _numbers(p.p50_ms))
        y, y_low, y_high = (np.nan if v is None else 100 * v for v in _numbers(p.f1))
        axes.plot([x_low, x_high], [y, y], color=colour, linewidth=1)
        axes.plot([x, x], [y_low, y_high], color=colour, linewidth=1)
        axes.plot(x, y, "o", markersize=6, markeredgecolor=colour, markerfacecolor=colour if p.best else "none",
                  label=p.name)
    axes.set_xscale("log")
    _label(axes, "median latency, milliseconds", "F1, %")
    _legend_above(axes)
    return _svg(figure)


def reliability(bins: Sequence[ReliabilityBin]) -> str:
    """Reliability diagram: accuracy against confidence, a point per bin of equal mass; the diagonal is calibrated."""
    figure, axes = plt.subplots(figsize=(3.6, 3.2))
    low = min((100 * min(b["confidence"], b["right"]) for b in bins), default=0.0)
    axes.plot([low, 100], [low, 100], color=_INK, linewidth=0.8, linestyle="--")
    axes.plot([100 * b["confidence"] for b in bins], [100 * b["right"] for b in bins], color=COLOURS[0], marker="o",
              markersize=4)
    _label(axes, "confidence, %", "accuracy, %")
    return _svg(figure)


def risk_coverage(points: Sequence[RiskPoint], threshold: float | None) -> str:
    """Risk-coverage curve: error rate of the labels above a confidence threshold, against their share."""
    figure, axes = plt.subplots(figsize=(3.6, 3.2))
    axes.plot([100 * p["coverage"] for p in points], [100 * p["risk"] for p in points], color=COLOURS[0])
    kept = [p for p in points if threshold is not None and p["threshold"] >= threshold]
    if kept:
        axes.plot(100 * kept[-1]["coverage"], 100 * kept[-1]["risk"], marker="o", color=COLOURS[3], label="threshold")
        axes.legend(loc="upper left")
    axes.set_ylim(bottom=0)
    _label(axes, "coverage, %", "error rate, %")
    return _svg(figure)


def histogram(values: Sequence[float], label: str, of: str) -> str:
    """Histogram of values in [0, 1]."""
    figure, axes = plt.subplots(figsize=(3.6, 2.4))
    axes.hist(values, bins=25, range=(0.0, 1.0), color=COLOURS[0])
    axes.set_xlabel(label)
    axes.set_ylabel(of)
    return _svg(figure)


def differences(rows: Sequence[tuple[str, Estimate]], label: str) -> str:
    """Paired differences in points with their intervals, one line each; a defined difference has all three numbers."""
    figure, axes = plt.subplots(figsize=(7.0, 0.6 + 0.28 * max(1, len(rows))))
    for at, (_, difference) in enumerate(reversed(rows)):
        if difference["value"] is None:
            continue
        value, low, high = (100 * (v or 0.0) for v in _numbers(difference))
        colour = COLOURS[2] if low > 0 else COLOURS[3] if high < 0 else _INK
        axes.plot([low, high], [at, at], color=colour, linewidth=1.5)
        axes.plot(value, at, marker="o", markersize=4, color=colour)
    axes.axvline(0, color=_INK, linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axes.set_xlabel(label)
    return _svg(figure)


def f1_by_parameters(variants: Sequence[SweepVariant], chosen: str) -> str:
    """F1 with its interval against the number of trained parameters, on a log axis."""
    figure, axes = plt.subplots(figsize=(7.0, 3.0))
    for v in variants:
        value, low, high = (100 * (x or 0.0) for x in _numbers(v["f1"]))
        colour = COLOURS[2] if v["name"] == chosen else COLOURS[0]
        axes.plot([v["trained"]] * 2, [low, high], color=colour, linewidth=1.2)
        axes.plot(v["trained"], value, marker="o", markersize=4, color=colour)
        axes.annotate(v["name"], (v["trained"], value), xytext=(4, 2), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    _label(axes, "trained parameters", "dev F1, %")
    return _svg(figure)


def learning_curve(history: Sequence[Mapping[str, Any]]) -> str:
    """Training loss and dev F1 by step."""
    figure, axes = plt.subplots(figsize=(7.0, 2.6))
    axes.plot([h["step"] for h in history], [h["loss"] for h in history], color=COLOURS[0], linewidth=0.9)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss, nats per symbol", color=COLOURS[0])
    axes.set_yscale("log")
    points = [(h["step"], 100 * h["dev_f1"]) for h in history if "dev_f1" in h]
    if points:
        right = axes.twinx()
        right.plot(*zip(*points, strict=True), color=COLOURS[1], marker="o", markersize=3)
        right.set_ylabel("dev F1, %", color=COLOURS[1])
        right.set_ylim(0, 100)
    return _svg(figure)


def _numbers(estimate: Estimate) -> tuple[float | None, float | None, float | None]:
    return estimate["value"], estimate["low"], estimate["high"]


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.2)


def _legend_above(axes: Any) -> None:
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.27))


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]

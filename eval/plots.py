"""Plots as SVG text, drawn with matplotlib so that a report needs no network and no script."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("svg")
import matplotlib.pyplot as plt

COLOURS = ("#2563eb", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#64748b", "#ec4899")
_INK = "#64748b"
mpl.rcParams.update({
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": _INK, "axes.labelcolor": _INK, "xtick.color": _INK,
    "ytick.color": _INK, "text.color": _INK, "legend.frameon": False, "figure.facecolor": "none",
    "axes.facecolor": "none", "svg.hashsalt": "limbeck",
})


def f1_by_role(systems: Mapping[str, Mapping[str, Any]]) -> str:
    """Bars of F1 per role and system, with intervals."""
    names = [r for r, v in next(iter(systems.values()))["value"]["roles"].items() if v["support"]]
    figure, axes = plt.subplots(figsize=(max(7.0, 0.8 * len(names)), 3.0))
    width = 0.8 / len(systems)
    for number, (system, found) in enumerate(systems.items()):
        roles = found["value"]["roles"]
        f1 = [roles[n]["f1"] for n in names]
        x = np.arange(len(names)) + (number - (len(systems) - 1) / 2) * width
        _bars(axes, x, f1, width * 0.92, COLOURS[number % len(COLOURS)], system)
    tilted: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if len(names) > 6 else {}
    axes.set_xticks(range(len(names)), names, **tilted)
    axes.set_ylabel("F1, %")
    axes.set_ylim(0, 100)
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.25))
    return _svg(figure)


def f1_by_slice(systems: Mapping[str, Mapping[str, Any]], dimension: str, names: Sequence[str]) -> str:
    """Bars of micro-F1 per part of a dimension and system, with intervals."""
    cut = {k: v["slices"][dimension] for k, v in systems.items() if dimension in v.get("slices", {})}
    figure, axes = plt.subplots(figsize=(7.0, 2.8))
    width = 0.8 / max(1, len(cut))
    for number, (system, found) in enumerate(cut.items()):
        f1 = [found.get(s, {}).get("f1", {"value": None, "low": None, "high": None}) for s in names]
        x = np.arange(len(names)) + (number - (len(cut) - 1) / 2) * width
        _bars(axes, x, f1, width * 0.92, COLOURS[number % len(COLOURS)], system)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("F1, %")
    axes.set_ylim(0, 100)
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.27))
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
    axes.set_xlabel("milliseconds from the scheduled departure")
    axes.set_ylabel("% of requests")
    axes.grid(alpha=0.2)
    axes.legend(loc="lower right")
    return _svg(figure)


def latency_over_time(groups: Mapping[str, Sequence[tuple[float, float]]], every_s: float = 1.0) -> str:
    """Median and 99th percentile of the requests of each second, by kind: stalls and drift show here, not in a CDF.

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
    axes.set_xlabel("seconds from the start")
    axes.set_ylabel("milliseconds")
    axes.grid(alpha=0.2)
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.27))
    return _svg(figure)


def latency_by_rate(rates: Sequence[Mapping[str, Any]]) -> str:
    """Percentiles against the offered rate, up to where the server gives in; hollow where it did not hold."""
    figure, axes = plt.subplots(figsize=(7.0, 2.8))
    for number, name in enumerate(("p50", "p95", "p99")):
        points = [(r["rate"], r["blended"][f"{name}_ms"]["value"], r["holds"]) for r in rates
                  if r["blended"][f"{name}_ms"] and r["blended"][f"{name}_ms"]["value"] is not None]
        if points:
            axes.plot([p[0] for p in points], [p[1] for p in points], color=COLOURS[number], linewidth=1, label=name)
            for rate, value, holds in points:
                face = COLOURS[number] if holds else "none"
                axes.plot(rate, value, "o", markersize=4, markerfacecolor=face, markeredgecolor=COLOURS[number])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("requests a second")
    axes.set_ylabel("milliseconds")
    axes.grid(alpha=0.2)
    axes.legend(loc="upper left")
    return _svg(figure)


def cache_sizes(sizes: Sequence[Mapping[str, float]], now: float | None) -> str:
    """What a million queries cost with head caches of different sizes; the dashed line is the one of the bundle."""
    figure, axes = plt.subplots(figsize=(7.0, 2.4))
    axes.plot([max(1, s["queries"]) for s in sizes], [s["per_million"] for s in sizes], color=COLOURS[0], marker="o",
              markersize=3)
    if now:
        axes.axvline(now, color=_INK, linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("cached queries")
    axes.set_ylabel("$ a million queries")
    axes.grid(alpha=0.2)
    return _svg(figure)


def pareto(points: Sequence[Mapping[str, Any]]) -> str:
    """F1 against the median latency, both with intervals; nothing is better in both than what is drawn filled."""
    figure, axes = plt.subplots(figsize=(7.0, 3.2))
    for number, p in enumerate(points):
        colour = COLOURS[number % len(COLOURS)]
        x, y = p["p50_ms"], p["f1"]
        axes.plot([x["low"], x["high"]], [100 * y["value"]] * 2, color=colour, linewidth=1)
        axes.plot([x["value"]] * 2, [100 * y["low"], 100 * y["high"]], color=colour, linewidth=1)
        axes.plot(x["value"], 100 * y["value"], "o", markersize=6, markeredgecolor=colour,
                  markerfacecolor=colour if p["best"] else "none", label=p["name"])
    axes.set_xscale("log")
    axes.set_xlabel("median latency, milliseconds")
    axes.set_ylabel("F1, %")
    axes.grid(alpha=0.2)
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.25))
    return _svg(figure)


def reliability(bins: Sequence[Mapping[str, float]]) -> str:
    """Share right against stated confidence, one point a bin of equal mass; on the diagonal is honest."""
    figure, axes = plt.subplots(figsize=(3.6, 3.2))
    low = min((100 * min(b["confidence"], b["right"]) for b in bins), default=0.0)
    axes.plot([low, 100], [low, 100], color=_INK, linewidth=0.8, linestyle="--")
    axes.plot([100 * b["confidence"] for b in bins], [100 * b["right"] for b in bins], color=COLOURS[0], marker="o",
              markersize=4)
    axes.set_xlabel("stated confidence, %")
    axes.set_ylabel("right, %")
    axes.grid(alpha=0.2)
    return _svg(figure)


def risk_coverage(points: Sequence[Mapping[str, float]], threshold: float | None) -> str:
    """Share wrong among those kept, against the share kept, surest first."""
    figure, axes = plt.subplots(figsize=(3.6, 3.2))
    axes.plot([100 * p["coverage"] for p in points], [100 * p["risk"] for p in points], color=COLOURS[0])
    kept = [p for p in points if threshold is not None and p["threshold"] >= threshold]
    if kept:
        axes.plot(100 * kept[-1]["coverage"], 100 * kept[-1]["risk"], marker="o", color=COLOURS[3], label="threshold")
        axes.legend(loc="upper left")
    axes.set_xlabel("kept, %")
    axes.set_ylabel("wrong among the kept, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.2)
    return _svg(figure)


def histogram(values: Sequence[float], label: str, of: str) -> str:
    """How many of what have which value, in [0, 1]."""
    figure, axes = plt.subplots(figsize=(3.6, 2.4))
    axes.hist(values, bins=25, range=(0.0, 1.0), color=COLOURS[0])
    axes.set_xlabel(label)
    axes.set_ylabel(of)
    return _svg(figure)


def differences(rows: Sequence[tuple[str, Mapping[str, Any]]], label: str) -> str:
    """Paired differences in points with their intervals, one line each; zero is no difference."""
    figure, axes = plt.subplots(figsize=(7.0, 0.6 + 0.28 * max(1, len(rows))))
    for at, (_, figures) in enumerate(reversed(rows)):
        if figures["value"] is None:
            continue
        low, value, high = (100 * figures[k] for k in ("low", "value", "high"))
        colour = COLOURS[2] if low > 0 else COLOURS[3] if high < 0 else _INK
        axes.plot([low, high], [at, at], color=colour, linewidth=1.5)
        axes.plot(value, at, marker="o", markersize=4, color=colour)
    axes.axvline(0, color=_INK, linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axes.set_xlabel(label)
    return _svg(figure)


def cost_and_worth(variants: Sequence[Mapping[str, Any]], chosen: str) -> str:
    """F1 with its interval against the trained parameters, on a log axis."""
    figure, axes = plt.subplots(figsize=(7.0, 3.0))
    for v in variants:
        low, value, high = (100 * v["f1"][k] for k in ("low", "value", "high"))
        colour = COLOURS[2] if v["name"] == chosen else COLOURS[0]
        axes.plot([v["trained"]] * 2, [low, high], color=colour, linewidth=1.2)
        axes.plot(v["trained"], value, marker="o", markersize=4, color=colour)
        axes.annotate(v["name"], (v["trained"], value), xytext=(4, 2), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel("trained parameters")
    axes.set_ylabel("dev F1, %")
    axes.grid(alpha=0.2)
    return _svg(figure)


def learning_curve(history: Sequence[Mapping[str, Any]]) -> str:
    """Training loss and dev F1 by step."""
    figure, axes = plt.subplots(figsize=(7.0, 2.6))
    axes.plot([h["step"] for h in history], [h["loss"] for h in history], color=COLOURS[0], linewidth=0.9)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss, nats a symbol", color=COLOURS[0])
    axes.set_yscale("log")
    points = [(h["step"], 100 * h["dev_f1"]) for h in history if "dev_f1" in h]
    if points:
        right = axes.twinx()
        right.plot(*zip(*points, strict=True), color=COLOURS[1], marker="o", markersize=3)
        right.set_ylabel("dev F1, %", color=COLOURS[1])
        right.set_ylim(0, 100)
    return _svg(figure)


def _bars(axes: Any, x: Any, figures: Sequence[Mapping[str, Any]], width: float, colour: str, label: str) -> None:
    values = [100 * (f["value"] or 0.0) for f in figures]
    bounds = [
        [max(0.0, v - 100 * f["low"]) if f["low"] is not None else 0.0 for f, v in zip(figures, values, strict=True)],
        [max(0.0, 100 * f["high"] - v) if f["high"] is not None else 0.0 for f, v in zip(figures, values, strict=True)],
    ]
    axes.bar(x, values, width, color=colour, label=label)
    axes.errorbar(x, values, yerr=bounds, fmt="none", ecolor=_INK, elinewidth=0.8, capsize=1.5)


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]

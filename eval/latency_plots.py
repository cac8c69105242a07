"""Plots of latency; `width` is in inches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from eval.drawing import COLOURS, canvas, label, legend_above, logarithmic, svg
from eval.latency_schema import SweepRate, percentile_of


def latency_cdf(width: float, groups: Mapping[str, Sequence[float]]) -> str:
    """Share of requests answered within a time, hits and misses apart; milliseconds on a log axis."""
    figure, axes = canvas(width, 3.0)
    for number, (name, seconds) in enumerate(groups.items()):
        values = np.sort([s for s in seconds if np.isfinite(s)]) * 1e3
        if len(values):
            share = np.arange(1, len(values) + 1) / max(1, len(seconds)) * 100
            axes.step(values, share, where="post", color=COLOURS[number], label=f"{name} ({len(seconds)})")
    logarithmic(axes.xaxis)
    label(axes, "milliseconds from the scheduled departure", "% of requests")
    legend_above(axes, width)
    return svg(figure)


def latency_over_time(
    width: float, groups: Mapping[str, Sequence[tuple[float, float]]], every_s: float = 1.0
) -> str:
    """Median and 99th percentile of the requests of each second, by kind: shows stalls and drift, which a CDF hides.

    Args:
        groups: (seconds from the start, seconds of latency) of each request.
    """
    figure, axes = canvas(width, 3.0)
    for number, (name, samples) in enumerate(groups.items()):
        if not len(samples):
            continue
        at, latency = np.array(samples).T
        bins = (at // every_s).astype(int)
        seconds = [b for b in np.unique(bins) if np.isfinite(latency[bins == b]).any()]
        for quantile, style in ((0.5, "-"), (0.99, ":")):
            values = [1e3 * np.quantile(latency[(bins == b) & np.isfinite(latency)], quantile) for b in seconds]
            which = f"{name}, {'p50' if quantile == 0.5 else 'p99'}"
            axes.plot([s * every_s for s in seconds], values, style, color=COLOURS[number], linewidth=1, label=which)
    logarithmic(axes.yaxis)
    label(axes, "seconds from the start", "milliseconds")
    legend_above(axes, width)
    return svg(figure)


def latency_by_rate(width: float, rates: Sequence[SweepRate]) -> str:
    """Percentiles against the offered rate until the server saturates; hollow where the rate was not sustained."""
    figure, axes = canvas(width, 3.0)
    for number, name in enumerate(("p50", "p95", "p99")):
        found = [(r["rate"], percentile_of(r["blended"], name), r["holds"]) for r in rates]
        points = [(rate, e["value"], holds) for rate, e, holds in found if e and e["value"] is not None]
        if points:
            axes.plot([p[0] for p in points], [p[1] for p in points], color=COLOURS[number], linewidth=1, label=name)
            for rate, value, holds in points:
                face = COLOURS[number] if holds else "none"
                axes.plot(rate, value, "o", markersize=4, markerfacecolor=face, markeredgecolor=COLOURS[number])
    logarithmic(axes.xaxis)
    logarithmic(axes.yaxis)
    label(axes, "requests per second", "milliseconds")
    axes.legend(loc="upper left")
    return svg(figure)

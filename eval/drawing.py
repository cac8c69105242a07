"""How plots are drawn: SVG text by matplotlib, in two widths, so that a page needs neither network nor scripts."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Concatenate, Final, Literal, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

COLOURS: Final = ("#2563eb", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#64748b", "#ec4899")
INK: Final = "#64748b"
# Inches, 96 pixels each: text has about its nominal size on a screen of 1,280 and on one of 400 pixels.
WIDE: Final = 9.5
NARROW: Final = 3.9
_EVENLY, _POWERS = 0.7, 2.0  # decades
_P = ParamSpec("_P")
mpl.rcParams.update({
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK,
    "ytick.color": INK, "text.color": INK, "legend.frameon": False, "figure.facecolor": "none",
    "axes.facecolor": "none",
})


def both_widths(plot: Callable[Concatenate[float, _P], str], *args: _P.args, **kwargs: _P.kwargs) -> str:
    """A plot for wide and one for narrow screens as HTML; the styles of `page.html.j2` show one of them."""
    return "".join(
        f'<div class="plot {name}">{plot(width, *args, **kwargs)}</div>'
        for name, width in (("wide", WIDE), ("narrow", NARROW))
    )


def canvas(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> tuple[Any, Any]:
    """A figure of exactly this size in inches, and its axes."""
    figure = Figure(figsize=(width, height), layout=layout)  # pyplot would keep it for the whole process
    return figure, figure.subplots()


def label(axes: Any, x: str, y: str) -> None:
    """Name both axes and draw a grid."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.2)


def logarithmic(axis: Any) -> None:
    """Make an axis logarithmic, with at most some six numbers written out.

    Matplotlib writes `2 × 10^1` at each step where an axis spans less than a decade; on a narrow screen they overlap.
    """
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(_FewTicks())
    axis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    axis.set_minor_locator(NullLocator())


class _FewTicks(LogLocator):
    """Ticks of a logarithmic axis: at 1, 2 and 5, at powers of ten alone over many, evenly in less than a decade."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        decades = np.log10(vmax / vmin) if vmin > 0 else np.inf
        if decades < _EVENLY:
            return MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(vmin, vmax)
        self.set_params(subs=(1.0, 2.0, 5.0) if decades < _POWERS else (1.0,), numticks=7)
        return super().tick_values(vmin, vmax)


def legend_above(axes: Any, width: float) -> None:
    """A legend above the plot: names side by side where there is room."""
    axes.legend(ncols=3 if width > NARROW else 1, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def svg(figure: Any, *, salt: str = "", **options: Any) -> str:
    """The figure as an `svg` element; the same figure gives the same text.

    Args:
        salt: Of the ids in it. They must differ between the widths: a reference into a hidden plot may show nothing.
        options: For matplotlib's `savefig`.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt or f"limbeck {figure.get_figwidth()}"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, **options)
    text = buffer.getvalue()
    return text[text.index("<svg") :]

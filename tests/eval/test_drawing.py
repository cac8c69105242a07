from __future__ import annotations

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from eval.drawing import NARROW, WIDE, canvas, label, logarithmic


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize(("low", "high"), [
    (8.0, 16.0), (10.0, 12.0), (1.0, 8.0), (3.0, 95.0), (1.0, 100.0), (0.4, 900.0), (1.0, 1e7), (40.0, 45.0),
    (1_000.0, 30_000.0), (16.0, 16.0),
])
def test_numbers_on_a_logarithmic_axis_do_not_overlap(width: float, low: float, high: float) -> None:
    figure, axes = canvas(width, 3.0)
    axes.plot([low, high], [low, high])
    for axis in (axes.xaxis, axes.yaxis):
        logarithmic(axis)
    label(axes, "requests per second", "milliseconds")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    for axis, side in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        shown = [
            t.get_window_extent(renderer) for t in [*axis.get_ticklabels(), *axis.get_ticklabels(minor=True)]
            if t.get_text() and axis.get_view_interval()[0] <= t.get_position()[side == "y"]
            <= axis.get_view_interval()[1]
        ]
        ends = sorted((getattr(b, f"{side}0"), getattr(b, f"{side}1")) for b in shown)
        assert len(ends) >= 2
        assert all(a[1] < b[0] for a, b in itertools.pairwise(ends)), [
            t.get_text() for t in axis.get_ticklabels()
        ]

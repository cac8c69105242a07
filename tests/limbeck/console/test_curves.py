from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.console.curves import BOTTOM, LEFT, RIGHT, TOP, plot, powers, thinned, ticks, training_plots

VALUES = st.floats(1e-6, 1e6)


@given(st.lists(VALUES, min_size=1, max_size=700), st.booleans())
def test_every_point_and_every_number_of_an_axis_is_within_the_plot(values: list[float], logarithmic: bool) -> None:
    found = plot("loss", list(enumerate(values)), x="step", y="nats", logarithmic=logarithmic)
    assert 1 <= len(found.points) <= 300
    for x, y in found.points:
        assert LEFT - 1e-6 <= x <= RIGHT + 1e-6
        assert TOP - 1e-6 <= y <= BOTTOM + 1e-6
    assert all(TOP - 1e-3 <= y <= BOTTOM + 1e-3 for y, _ in found.up)
    assert all(LEFT - 1e-3 <= x <= RIGHT + 1e-3 for x, _ in found.across)
    assert len(found.rows) <= 20
    if len(values) > 1:
        assert (found.points[0][0], found.points[-1][0]) == (LEFT, RIGHT)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_numbers_between_both_ends(low: float, width: float) -> None:
    found = ticks(low, low + width)
    assert 1 <= len(found) <= 7
    assert found == sorted(set(found))
    assert all(low - 1e-6 * abs(low) - 1e-6 <= t <= low + width + 1e-6 * abs(low + width) + 1e-6 for t in found)


@given(st.floats(-6, 6), st.floats(0.01, 12))
def test_numbers_of_a_logarithmic_axis_are_few(low: float, decades: float) -> None:
    found = powers(low, low + decades)
    assert 1 <= len(found) <= 8
    assert all(low - 1e-6 <= math.log10(v) <= low + decades + 1e-6 for v in found)


def test_a_larger_value_is_higher_and_what_is_not_finite_is_left_out() -> None:
    found = plot("F1", [(1, 10.0), (2, math.nan), (3, 90.0)], x="step", y="%", dots=True, between=(0.0, 100.0))
    (_, first), (_, last) = found.points
    assert first > last
    assert found.described == "From 10 at step 1 to 90 at step 3."
    assert [y for y, text in found.up if text == "0"] == [BOTTOM]
    assert plot("F1", [(1, math.inf)], x="step", y="%").points == ()


def test_a_training_has_a_plot_of_what_it_has() -> None:
    assert training_plots([]) == []
    assert [p.title for p in training_plots([{"step": 1, "loss": 0.0}])] == ["Training loss"]
    both = training_plots([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "dev_f1": 0.5}])
    assert [p.title for p in both] == ["Training loss", "F1 on development rows"]
    assert both[1].rows == (("2", "50"),)


@pytest.mark.parametrize("most", [2, 7, 300])
def test_thinning_keeps_both_ends(most: int) -> None:
    points = [(float(i), 0.0) for i in range(1_000)]
    found = thinned(points, most)
    assert (len(found), found[0], found[-1]) == (most, points[0], points[-1])

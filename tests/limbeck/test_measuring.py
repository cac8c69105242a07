"""What `limbeck bench` says of rates and of the objective."""

from __future__ import annotations

from typing import Any

import pytest

from limbeck.commands.measuring import rates_line, slo_line

STEADY: Any = {
    "offered_rate": 10.0, "achieved_rate": 7.8, "seconds": 5.0, "requests": 39, "sent_in_time": 1.0, "saturated": False,
}


def test_fewer_answers_than_offered_are_explained_where_the_server_kept_up() -> None:
    said = rates_line(STEADY)
    assert said.startswith("10/s offered, 39 requests due in 5 s (7.8/s), 7.8/s answered, 100.00 % left on time. ")
    assert "a short run has more or fewer than offered" in said
    for other in ({"achieved_rate": 9.8}, {"saturated": True}):
        assert "a short run" not in rates_line(STEADY | other)


@pytest.mark.parametrize(("high", "ok", "end"), [
    (295.7, False, "objective: at most 200 ms, judged by the upper bound of the interval, 295.7 ms"),
    (200.04, False, "judged by the upper bound of the interval, 200.04 ms"),
    (190.0, True, "judged by the upper bound of the interval, 190.0 ms"),
    (None, False, "judged by the upper bound of the interval, which these requests do not bound"),
])
def test_the_objective_is_judged_by_the_upper_bound_and_that_is_said(high: float | None, ok: bool, end: str) -> None:
    measured: Any = {"value": 177.1, "low": 103.7, "high": high}
    said = slo_line({"ms": 200.0, "percentile": "p95", "measured": measured, "ok": ok}, 300)
    assert said.startswith("✓" if ok else "✗")
    assert said.endswith(end)

"""What is drawn as best is on the Pareto front."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from eval.pareto import pareto_front

SYSTEMS = st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 5))), min_size=1, max_size=6)


def system(f1: int, p50: int | None) -> dict[str, Any]:
    return {"f1": {"value": f1}, "p50_ms": None if p50 is None else {"value": p50}}


@given(SYSTEMS)
def test_best_is_who_nobody_matches_in_one_and_beats_in_the_other(pairs: list[tuple[int, int | None]]) -> None:
    found = pareto_front([system(*p) for p in pairs])
    best = {p for p, on_front in zip(pairs, found, strict=True) if on_front}
    timed = {(f1, p50) for f1, p50 in pairs if p50 is not None}
    assert bool(best) == bool(timed)
    for f1, p50 in timed:
        beaten = any(f >= f1 and p <= p50 and (f, p) != (f1, p50) for f, p in timed)
        assert ((f1, p50) in best) != beaten

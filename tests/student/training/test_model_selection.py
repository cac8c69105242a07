from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from student.training.model_selection import Selection

SCORES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30)


@given(SCORES)
def test_the_first_of_the_best_is_kept(scores: list[float]) -> None:
    selection = Selection()
    for step, score in enumerate(scores, 1):
        selection.improved(step, score)
    assert (selection.best, selection.step) == (max(scores), 1 + scores.index(max(scores)))
    assert not selection.stop


@given(SCORES, st.integers(1, 5), st.integers(0, 30))
def test_it_stops_after_so_many_without_a_better_one_also_when_resumed(
    scores: list[float], patience: int, cut: int
) -> None:
    selection = Selection(patience)
    for step, score in enumerate(scores, 1):
        if step == cut:
            selection = Selection.resume(patience, selection.state())
        selection.improved(step, score)
        if selection.stop:
            assert step - selection.step == patience
            assert max(scores[: step]) == scores[selection.step - 1]
            return
    assert len(scores) - selection.step < patience

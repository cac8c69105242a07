"""How many micro-batches every rank must run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from student.training.sharding import micro_batch_size, micro_batches, most_micro_batches


@given(rows=st.integers(0, 64), accumulation=st.integers(1, 16))
def test_micro_batches_hold_all_rows_and_are_no_more_than_asked_for(rows: int, accumulation: int) -> None:
    size, number = micro_batch_size(rows, accumulation=accumulation), micro_batches(rows, accumulation=accumulation)
    assert number <= accumulation
    assert number * size >= rows > (number - 1) * size or rows == number == 0


def test_every_rank_takes_as_many_turns_as_the_busiest() -> None:
    assert most_micro_batches([3, 2], 3) == 3
    assert most_micro_batches([1, 0], 4) == 1

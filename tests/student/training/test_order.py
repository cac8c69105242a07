from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from student.training.order import learning_rate, order_digest, plan_batches, share_of_rank, total_steps

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=80)


@given(LENGTHS, st.integers(1, 16), st.integers(1, 4), st.booleans())
def test_an_epoch_holds_every_row_once_and_equal_seeds_give_equal_plans(
    lengths: list[int], batch: int, window: int, reshuffle: bool
) -> None:
    steps = -(-len(lengths) // batch)
    plan = plan_batches(lengths, batch_size=batch, steps=2 * steps, reshuffle=reshuffle, window=window, seed=1)
    assert sorted(i for b in plan[:steps] for i in b) == list(range(len(lengths)))
    assert plan == plan_batches(lengths, batch_size=batch, steps=2 * steps, reshuffle=reshuffle, window=window, seed=1)
    assert order_digest(plan) == order_digest([list(b) for b in plan])


@given(LENGTHS, st.integers(1, 16))
def test_window_one_keeps_the_curriculum_to_the_row(lengths: list[int], batch: int) -> None:
    steps = -(-len(lengths) // batch)
    plan = plan_batches(lengths, batch_size=batch, steps=steps, reshuffle=True, window=1, seed=1)
    assert [i for b in plan for i in b] == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 8), st.integers(1, 4), st.integers(1, 30))
def test_a_run_that_ends_early_has_seen_all_of_an_order_that_means_something(
    lengths: list[int], batch: int, window: int, steps: int
) -> None:
    plan = plan_batches(lengths, batch_size=batch, steps=steps, reshuffle=False, window=window, seed=1)
    whole = -(-len(lengths) // batch)
    last = [i for b in plan[steps // whole * whole :] for i in b]  # what is no whole epoch
    assert len(plan) == steps
    assert len(set(last)) == len(last)
    if last and window == 1:
        gaps = [b - a for a, b in itertools.pairwise([*last, len(lengths)])]
        assert last[0] == 0
        assert max(gaps) - min(gaps) <= 1


def test_a_shuffled_order_is_as_good_at_its_start() -> None:
    plan = plan_batches([1] * 100, batch_size=10, steps=3, reshuffle=True, window=1, seed=1)
    assert [i for b in plan for i in b] == list(range(30))


def test_a_window_mixes_only_within_itself() -> None:
    plan = plan_batches([7, 1, 5, 3] * 8, batch_size=2, steps=16, reshuffle=False, window=4, seed=0)
    for w in range(4):
        assert sorted(i for b in plan[4 * w : 4 * w + 4] for i in b) == list(range(8 * w, 8 * w + 8))


@given(st.lists(st.integers(), max_size=20), st.integers(1, 5))
def test_ranks_share_a_batch_without_loss(batch: list[int], world: int) -> None:
    parts = [share_of_rank(batch, rank=r, world=world) for r in range(world)]
    assert sorted(x for p in parts for x in p) == sorted(batch)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_steps_and_schedule() -> None:
    assert total_steps(100, batch_size=32, epochs=2, max_steps=None) == 7
    assert total_steps(100, batch_size=32, epochs=2, max_steps=5) == 5
    rates = [learning_rate(s, peak=1.0, warmup=4, steps=20, schedule="cosine") for s in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0.0, abs=0.02)
    assert learning_rate(12, peak=1.0, warmup=4, steps=20, schedule="linear") == pytest.approx(0.5)
    assert learning_rate(12, peak=1.0, warmup=4, steps=20, schedule="constant") == 1.0

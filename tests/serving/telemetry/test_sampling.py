"""Priority sampling: sums of weights are what they estimate, on average and within their spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.telemetry.sampling import PrioritySample

REPETITIONS = 3_000
# A head query, a middle and a long tail, as traffic has them.
COUNTS = [1_000, 200, 90, 40, 17, 8, 5, *[3] * 10, *[1] * 60]


def sampled(counts: list[int], most: int, random: Random) -> list[tuple[int, int, float]]:
    sample: PrioritySample[int] = PrioritySample(most, random)
    for item, count in enumerate(counts):
        sample.add(item, count)
    return sample.take()


@pytest.mark.parametrize("most", [1, 5, 20])
@pytest.mark.parametrize(("kind", "holds"), [
    ("all", lambda _: True), ("head", lambda i: i == 0), ("middle", lambda i: 1 <= i < 7),
    ("tail", lambda i: COUNTS[i] == 1), ("one of the tail", lambda i: i == len(COUNTS) - 1),
    ("every third", lambda i: i % 3 == 0),
])
def test_the_sum_of_weights_of_any_kind_is_an_unbiased_estimate(
    kind: str, holds: Callable[[int], bool], most: int
) -> None:
    """Over two workers with two windows each, merged; within five standard errors of the true sum."""
    random = Random(f"{kind} {most}")
    parts = [COUNTS[i::2] for i in range(2)]
    index = [list(range(len(COUNTS)))[i::2] for i in range(2)]
    found = []
    for _ in range(REPETITIONS):
        total = 0.0
        for counts, places in zip(parts, index, strict=True):
            for _window in range(2):
                total += sum(w for i, _, w in sampled(counts, most, random) if holds(places[i]))
        found.append(total)
    true = 2 * sum(c for i, c in enumerate(COUNTS) if holds(i))
    error = statistics.stdev(found) / math.sqrt(REPETITIONS)
    assert abs(statistics.fmean(found) - true) <= 5 * error + 1e-9 * true


def test_a_biased_weight_would_be_found() -> None:
    """The k-th priority in place of the (k+1)-th, a mistake that is easily made, is outside of the bound above."""
    random, found = Random(1), []
    for _ in range(REPETITIONS):
        priorities = sorted(((c / (1.0 - random.random()), c) for c in COUNTS), reverse=True)[:20]
        found.append(sum(max(c, priorities[-1][0]) for _, c in priorities))
    error = statistics.stdev(found) / math.sqrt(REPETITIONS)
    assert abs(statistics.fmean(found) - sum(COUNTS)) > 5 * error


@given(st.lists(st.integers(1, 10**9), max_size=60), st.integers(1, 70), st.integers(0, 2**32))
def test_weights_are_at_least_the_counts_and_exact_where_nothing_is_left_out(
    counts: list[int], most: int, seed: int
) -> None:
    found = sampled(counts, most, Random(seed))
    assert len(found) == min(most, len(counts))
    assert [i for i, _, _ in found] == sorted({i for i, _, _ in found})
    assert all(count == counts[i] and weight >= count for i, count, weight in found)
    if len(counts) <= most:
        assert [w for _, _, w in found] == [float(c) for c in counts]


def test_a_sample_that_was_taken_begins_anew() -> None:
    sample: PrioritySample[str] = PrioritySample(3, Random(1))
    sample.add("a", 2)
    assert sample.take() == [("a", 2, 2.0)]
    assert sample.take() == []

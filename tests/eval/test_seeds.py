from __future__ import annotations

import numpy as np
import pytest

from eval.quality import paired_difference, quality
from eval.seeds import difference_over_seeds, over_seeds
from task.labels import Example, Label
from tests.conftest import make_task

GOLD = [Example(f"milk {i}", (Label("product", "milk", 0, 4),)) for i in range(200)]


def run(right: float, seed: int) -> list[Example]:
    """Predictions of which about this share is right, the others empty."""
    draw = np.random.default_rng(seed).random(len(GOLD))
    return [x if d < right else Example(x.query) for x, d in zip(GOLD, draw, strict=True)]


def test_one_seed_is_the_plain_interval() -> None:
    task = make_task(eval={"resamples": 500})
    one = run(0.7, 0)
    found = over_seeds(GOLD, [one], task)
    plain = quality(GOLD, one, task)["value"]["f1"]
    assert {k: found[k] for k in ("value", "low", "high")} == pytest.approx(plain)
    assert (found["seeds"], found["spread"]) == ([found["value"]], None)
    pair = difference_over_seeds(GOLD, [one], [run(0.5, 1)], task)
    assert pair == pytest.approx(paired_difference(GOLD, one, run(0.5, 1), task))


def test_the_mean_over_seeds_and_their_spread() -> None:
    task = make_task(eval={"resamples": 500})
    found = over_seeds(GOLD, [run(r, i) for i, r in enumerate((0.6, 0.7, 0.8))], task)
    assert found["value"] == pytest.approx(np.mean(found["seeds"]), abs=1e-6)
    assert found["spread"] == pytest.approx(np.std(found["seeds"], ddof=1), abs=1e-6)
    assert found["low"] < found["value"] < found["high"]


@pytest.mark.parametrize("rights", [(0.02, 0.3), (0.75, 1.0)])
def test_an_interval_over_two_seeds_ends_where_f1_does(rights: tuple[float, float]) -> None:
    found = over_seeds(GOLD, [run(r, i) for i, r in enumerate(rights)], make_task(eval={"resamples": 200}))
    assert 0.0 <= found["low"] < found["high"] <= 1.0
    assert 0.0 in (found["low"], 1 - found["high"])


def test_a_lucky_seed_is_not_a_finding_and_a_real_difference_is() -> None:
    task = make_task(eval={"resamples": 1_000})
    level = [run(0.7, i) for i in range(3)]
    lucky = [run(0.95, 10), run(0.69, 11), run(0.69, 12)]
    better = [run(0.85, 20 + i) for i in range(3)]
    assert difference_over_seeds(GOLD, lucky, level, task)["low"] < 0
    assert difference_over_seeds(GOLD, better, level, task)["low"] > 0
    none = difference_over_seeds(GOLD, level, level, task)
    assert none["value"] == 0
    assert none["low"] <= 0 <= none["high"]


def test_two_ways_of_decoding_the_same_students_are_paired_by_student() -> None:
    """Students of very different quality, each a little better in one way: told apart only in pairs."""
    task = make_task(eval={"resamples": 1_000})
    worse = [run(r, i) for i, r in enumerate((0.4, 0.6, 0.8))]
    better = [run(r + 0.05, i) for i, r in enumerate((0.4, 0.6, 0.8))]
    assert difference_over_seeds(GOLD, better, worse, task)["low"] < 0
    paired = difference_over_seeds(GOLD, better, worse, task, same_students=True)
    assert paired["low"] > 0
    assert paired["value"] == difference_over_seeds(GOLD, better, worse, task)["value"]
    assert set(difference_over_seeds(GOLD, worse, worse, task, same_students=True).values()) == {0.0}
    with pytest.raises(ValueError, match="2 runs against 3"):
        difference_over_seeds(GOLD, better[:2], worse, task, same_students=True)


def test_runs_that_say_nothing_score_nothing() -> None:
    empty = [[Example(x.query) for x in GOLD]] * 2
    assert over_seeds(GOLD, empty, make_task(eval={"resamples": 50}))["value"] == 0.0

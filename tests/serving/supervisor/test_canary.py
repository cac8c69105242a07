"""The judgement of a canary, on simulated students: equal ones pass, worse ones are found."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing.student_tally import StudentFigures, step, step_s
from serving.supervisor import canary
from serving.supervisor.canary import Harm, Judge
from task.serving_settings import Bounds

NONE_ALLOWED = Bounds(errors=0.0, slower=1.0, abstained=0.0, probability=0.0)


def figures(
    rng: np.random.Generator, n: int, *, failed: float = 0.002, abstained: float = 0.06, sure: float = 9.0,
    slow: float = 1.0,
) -> StudentFigures:
    """What a student did with n queries; its probabilities are Beta distributed, its times log-normal."""
    failures = int(rng.binomial(n, failed))
    usable = n - failures
    probability = rng.beta(sure, 1.5, usable)
    seconds = 0.02 * slow * np.exp(rng.normal(0.0, 0.6, n))
    return StudentFigures(
        answers=n, failed=failures, abstained=int(rng.binomial(usable, abstained)), judged=usable,
        probability=float(probability.sum()), squares=float((probability**2).sum()),
        seconds=dict(Counter(map(step, seconds.tolist()))),
    )


def canary_of(
    seed: int, bounds: Bounds, *, steps: int = 30, new: int = 50, released: int = 200, **harm: float
) -> tuple[Harm | None, int]:
    """Run one: the harm that is found, and the new bundle's answers by then."""
    rng, judge = np.random.default_rng(seed), Judge(bounds)
    ours, theirs = StudentFigures(), StudentFigures()
    for number in range(steps):
        ours += figures(rng, released)
        theirs += figures(rng, new, **harm)
        found = judge.look(ours, theirs, last=number == steps - 1)
        if found is not None:
            return found, theirs.answers
    return None, theirs.answers


def test_equal_bundles_are_refused_no_more_often_than_stated() -> None:
    """With no margin at all, where a bundle that is as good as the other one is just within its bounds."""
    refused = sum(canary_of(seed, NONE_ALLOWED)[0] is not None for seed in range(100))
    assert refused <= canary.ALPHA * 100


def test_a_bundle_just_within_its_bounds_is_refused_no_more_often_than_stated() -> None:
    just = {"failed": 0.012, "abstained": 0.11, "slow": 1.5}
    refused = sum(canary_of(1_000 + seed, Bounds(), **just)[0] is not None for seed in range(100))
    assert refused <= canary.ALPHA * 100


@pytest.mark.parametrize(("harm", "kind", "soon"), [
    ({"failed": 0.1}, "errors", 500), ({"abstained": 0.31}, "abstained", 300), ({"sure": 1.0}, "probability", 300),
    ({"slow": 4.0}, "slower", 300), ({"failed": 1.0}, "errors", 200), ({"abstained": 1.0}, "abstained", 200),
])
def test_a_harm_is_found_while_there_are_few_answers(harm: dict[str, float], kind: str, soon: int) -> None:
    for seed in range(20):
        found, answers = canary_of(seed, Bounds(), **harm)
        assert found is not None
        assert (found.kind, answers <= soon) == (kind, True)
        off = canary_of(seed, Bounds().model_copy(update={kind: None}), **harm)[0]
        assert off is None or off.kind != kind


def test_the_reason_has_the_figures() -> None:
    released = StudentFigures(answers=7_610, failed=10, abstained=464, seconds={step(0.1): 7_600})
    new = StudentFigures(answers=412, abstained=128, seconds={step(0.1): 412})
    harm = Judge(Bounds()).look(released, new)
    assert harm == Harm("abstained", (
        "abstained on 31.1 % of 412 answers, 25.0 points more than the released bundle's 6.1 % of 7,600; at most 5 "
        "points are allowed"
    ))
    slow = Judge(Bounds()).look(released, new.model_copy(update={"abstained": 0, "seconds": {step(0.4): 412}}))
    assert slow is not None
    assert slow.why.startswith(
        "took 410 ms at the 95th percentile of 412 answers, 4.0 times the released bundle's 102 ms of 7,600; at most"
    )


def test_few_answers_are_not_judged_and_it_is_said_why() -> None:
    rng, judge = np.random.default_rng(0), Judge(Bounds(least=200))
    many, few = figures(rng, 5_000), figures(rng, 199, abstained=1.0)
    assert judge.look(many, few, last=True) is None
    assert judge.look(few, many, last=True) is None
    why = judge.unjudged(many, few)
    assert why is not None
    assert "199 answers of the new bundle's student and 5,000 of the released one's" in why
    assert judge.look(many, figures(rng, 200, abstained=1.0)) is not None
    assert judge.unjudged(many, few) is None


def test_a_look_is_taken_when_there_is_something_new_to_see() -> None:
    rng, judge = np.random.default_rng(0), Judge(Bounds(least=100))
    released = figures(rng, 1_000)
    looks = []
    for n in range(100, 200):
        judge.look(released, figures(rng, n))
        looks.append(judge.looks)
    assert looks[-1] == 4  # at 100, 120, 144, 173 answers
    judge.counts_anew()
    judge.look(released, figures(rng, 100))
    assert judge.looks == 5  # what was spent stays spent
    judge.counts_anew()
    assert judge.unjudged(released, figures(rng, 7)) is not None  # of this counting nothing has been looked at


def test_nothing_is_judged_without_bounds() -> None:
    rng = np.random.default_rng(0)
    off = Judge(Bounds(errors=None, slower=None, abstained=None, probability=None))
    assert off.look(figures(rng, 1_000), figures(rng, 1_000, failed=1.0), last=True) is None


@given(n=st.integers(1, 5_000), data=st.data(), chance=st.sampled_from([1e-2, 1e-4, 1e-7]))
def test_a_share_lies_between_its_bounds(n: int, data: st.DataObject, chance: float) -> None:
    count = data.draw(st.integers(0, n))
    low, high = canary.share_above(count, n, chance), canary.share_below(count, n, chance)
    assert 0.0 <= low <= count / n <= high <= 1.0
    assert low < high
    if count > 0:
        assert canary.share_above(count - 1, n, chance) <= low


@given(counts=st.dictionaries(st.integers(0, 200), st.integers(1, 400), min_size=1))
def test_a_quantile_lies_between_its_bounds(counts: dict[int, int]) -> None:
    low, high = canary.quantile_above(counts, 1e-3), canary.quantile_below(counts, 1e-3)
    assert low <= canary.quantile(counts) <= max(high, step_s(max(counts) + 1))
    if math.isfinite(high):
        assert low <= high


def test_bounds_cover_as_often_as_they_say() -> None:
    """5 % each: the true figures are known here."""
    rng, missed = np.random.default_rng(7), Counter[str]()
    true_mean, true_quantile = 9.0 / 10.5, 0.02 * math.exp(0.6 * 1.6448536)
    for _ in range(400):
        x = figures(rng, 400)
        mean, error = x.probability / x.judged, canary.mean_error(x, 0.05)
        missed["mean"] += true_mean < mean - error
        missed["share"] += canary.share_above(x.abstained, x.usable, 0.05) > 0.06
        missed["above"] += canary.quantile_above(x.seconds, 0.05) > true_quantile
        missed["below"] += canary.quantile_below(x.seconds, 0.05) < true_quantile
    assert max(missed.values()) <= 0.05 * 400
    assert missed["share"] > 0  # and they are not as wide as that for nothing


@pytest.mark.parametrize("wrong", [{"slower": 0.5}, {"errors": 1.5}, {"least": 0}, {"watch": 3}])
def test_a_bound_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Bounds.model_validate(wrong)

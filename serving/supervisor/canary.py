"""The judgement of a canary: does the new bundle's student do worse than bounds allow, beyond what chance explains?

A bound counts as left where a confidence bound of the new bundle's figure and one of the released bundle's are further
apart than it allows. None of them assumes a distribution, and all hold for any number of answers:

- shares: Hoeffding (1963), theorem 1, n KL(share, true share) ≥ log(1/δ) with a probability of at most δ;
- means of values in [0, 1]: the empirical Bernstein bound, Maurer and Pontil (2009), theorem 4;
- quantiles: the q-quantile is above t where the share above t is larger than 1 − q, and the share is bounded as above.

A canary is looked at many times. The k-th look may err with a probability of α / (k (k + 1)); these add up to α over
all looks, however many there are (a union bound over looks at geometrically growing numbers of answers, as in Howard,
Ramdas, McAuliffe and Sekhon 2021, section 3.1). It is divided by the number of bounds, and by the two sides of each. A
look is taken when the new bundle's answers have grown by a fifth, so that it has something new to see.

That queries are independent is assumed: each distinct one counts once (`serving.routing.student_tally`). Failures come
in bursts, as when an engine dies: whether a bundle is refused for them is then a matter of the one burst.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from serving.routing.student_tally import StudentFigures, step_s
from task.serving_settings import Bounds

Kind = Literal["errors", "slower", "abstained", "probability"]
ALPHA: Final = 0.01
"""How often at most a new bundle is refused that is just within all its bounds, over all looks of a change."""
QUANTILE: Final = 0.95
_GROWTH: Final = 1.2
_LEAST_FOR_VARIANCE: Final = 2
_HALVINGS: Final = 50


@dataclass(frozen=True, slots=True)
class Harm:
    """A bound that is left, and the sentence that says so; its subject is the new bundle."""

    kind: Kind
    why: str


class Judge:
    """Looks at the figures of one change as they grow; `looks` is how many it has taken."""

    def __init__(self, bounds: Bounds) -> None:
        self.looks = 0
        self._bounds = bounds
        self._next, self._looked = bounds.least, False

    def counts_anew(self) -> None:
        """The figures begin at zero again, as after the switch; the looks that were taken stay spent."""
        self._next, self._looked = self._bounds.least, False

    def look(self, released: StudentFigures, new: StudentFigures, *, last: bool = False) -> Harm | None:
        """What is wrong with the new bundle, None where it is nothing or nothing is known yet.

        Args:
            released: The figures of the bundle that it is compared with.
            last: There is no later look: it is taken however few answers there are since the one before.
        """
        least = self._bounds.least
        if not self._bounds.judged or min(released.answers, new.answers) < least:
            return None
        if new.answers < self._next and not last:
            return None
        self._next, self._looked = math.ceil(_GROWTH * new.answers), True
        self.looks += 1
        chance = ALPHA / (self.looks * (self.looks + 1)) / self._bounds.judged / 2
        found = (
            self._errors(released, new, chance), self._abstained(released, new, chance),
            self._probability(released, new, chance), self._slower(released, new, chance),
        )
        return next((harm for harm in found if harm is not None), None)

    def _errors(self, released: StudentFigures, new: StudentFigures, chance: float) -> Harm | None:
        sides = (new.failed, new.answers), (released.failed, released.answers)
        return _larger_share("errors", "failed on", *sides, allowed=self._bounds.errors, chance=chance)

    def _abstained(self, released: StudentFigures, new: StudentFigures, chance: float) -> Harm | None:
        sides = (new.abstained, new.usable), (released.abstained, released.usable)
        return _larger_share("abstained", "abstained on", *sides, allowed=self._bounds.abstained, chance=chance)

    def _probability(self, released: StudentFigures, new: StudentFigures, chance: float) -> Harm | None:
        allowed = self._bounds.probability
        if allowed is None or min(released.judged, new.judged) < _LEAST_FOR_VARIANCE:
            return None
        lowest = released.probability / released.judged - mean_error(released, chance)
        highest = new.probability / new.judged + mean_error(new, chance)
        if lowest - highest <= allowed:
            return None
        before, now = released.probability / released.judged, new.probability / new.judged
        return Harm("probability", (
            f"gave {new.judged:,} labellings a mean probability of {now:.3f}, {before - now:.3f} less than the "
            f"released bundle's {before:.3f} of {released.judged:,}; at most {allowed:g} less is allowed"
        ))

    def _slower(self, released: StudentFigures, new: StudentFigures, chance: float) -> Harm | None:
        allowed, sizes = self._bounds.slower, (sum(released.seconds.values()), sum(new.seconds.values()))
        if allowed is None or not min(sizes):
            return None
        if quantile_above(new.seconds, chance) <= allowed * quantile_below(released.seconds, chance):
            return None
        before, now = quantile(released.seconds), quantile(new.seconds)
        return Harm("slower", (
            f"took {_ms(now)} at the {100 * QUANTILE:.0f}th percentile of {sizes[1]:,} answers, {now / before:.1f} "
            f"times the released bundle's {_ms(before)} of {sizes[0]:,}; at most {allowed:g} times is allowed"
        ))

    def unjudged(self, released: StudentFigures, new: StudentFigures) -> str | None:
        """Why nothing could be judged since the counting began, None where something was."""
        if self._looked:
            return None
        return (
            f"{new.answers:,} answers of the new bundle's student and {released.answers:,} of the released one's, not "
            f"counting caches and repeated queries; `serving.change.bounds.least` asks for {self._bounds.least:,} of "
            "each"
        )


# -- confidence bounds: each errs with a probability of at most `chance` -----------------------------------------------


def share_above(count: int, of: int, chance: float) -> float:
    """A bound above which the true share is: the largest one that `count` of `of` refutes as too small."""
    low, high = 0.0, count / of
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _refuted(middle, count, of, chance) else (low, middle)
    return low


def share_below(count: int, of: int, chance: float) -> float:
    """A bound below which the true share is."""
    return 1.0 - share_above(of - count, of, chance)


def mean_error(figures: StudentFigures, chance: float) -> float:
    """By how much the true mean of the probability may differ, to one side, from that of at least two labellings."""
    n, mean = figures.judged, figures.probability / figures.judged
    variance = max(0.0, figures.squares - n * mean * mean) / (n - 1)
    log = math.log(2.0 / chance)
    return math.sqrt(2.0 * variance * log / n) + 7.0 * log / (3.0 * (n - 1))


def quantile_above(seconds: Mapping[int, int], chance: float) -> float:
    """A time above which the true quantile is, in seconds: the lower end of a step of the histogram."""
    n, above = sum(seconds.values()), 0
    share = 1.0 - QUANTILE
    for number in sorted(seconds, reverse=True):
        above += seconds[number]
        if above > share * n and _refuted(share, above, n, chance):
            return step_s(number)
    return 0.0


def quantile_below(seconds: Mapping[int, int], chance: float) -> float:
    """A time below which the true quantile is, in seconds; infinite where the histogram shows none."""
    n, above, share, found = sum(seconds.values()), 0, 1.0 - QUANTILE, math.inf
    for number in sorted(seconds, reverse=True):
        if above >= share * n or not _refuted(share, above, n, chance):  # `above` counts later steps only
            break
        found = step_s(number + 1)
        above += seconds[number]
    return found


def quantile(seconds: Mapping[int, int]) -> float:
    """The quantile as it was observed, in seconds: the upper end of its step."""
    left = QUANTILE * sum(seconds.values())
    for number in sorted(seconds):
        left -= seconds[number]
        if left <= 0.0:
            return step_s(number + 1)
    raise ValueError("no answers")


def _refuted(share: float, count: int, of: int, chance: float) -> bool:
    """Whether `count` of `of` shows that the true share is another one, to the side on which it lies."""
    return of * _divergence(count / of, share) >= -math.log(chance)


def _divergence(found: float, true: float) -> float:
    """Kullback–Leibler divergence of two Bernoulli variables, in nats."""
    def term(p: float, q: float) -> float:
        return 0.0 if p <= 0.0 else math.inf if q <= 0.0 else p * math.log(p / q)

    return term(found, true) + term(1.0 - found, 1.0 - true)


def _larger_share(
    kind: Kind, did: str, new: tuple[int, int], released: tuple[int, int], *, allowed: float | None, chance: float
) -> Harm | None:
    """The harm where the new share is larger by more than is allowed; shares are (count, of)."""
    if allowed is None or not min(new[1], released[1]):
        return None
    if share_above(*new, chance) - share_below(*released, chance) <= allowed:
        return None
    now, before = 100 * new[0] / new[1], 100 * released[0] / released[1]
    return Harm(kind, (
        f"{did} {now:.1f} % of {new[1]:,} answers, {now - before:.1f} points more than the released bundle's "
        f"{before:.1f} % of {released[1]:,}; at most {100 * allowed:g} points are allowed"
    ))


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.3g} ms" if seconds < 1.0 else f"{seconds:,.2f} s"

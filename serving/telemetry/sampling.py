"""Priority sampling: k of many weighted items, such that sums over any kind of them can be estimated without bias.

Nick Duffield, Carsten Lund, Mikkel Thorup: Priority sampling for estimation of arbitrary subset sums, JACM 54 (2007).
An item with the count c gets the priority c/u, u uniform in (0, 1]; the k items with the highest priorities are kept.
With τ, the (k+1)-th priority, a kept item is estimated at max(c, τ), one that was not kept at 0: each estimate has the
expectation c, and so has every sum of them, also over several samples.
"""

from __future__ import annotations

import heapq
from random import Random
from typing import Generic, TypeVar

T = TypeVar("T")


class PrioritySample(Generic[T]):
    """A sample of at most `most` of the items that are added to it."""

    def __init__(self, most: int, random: Random) -> None:
        self._most, self._random = most, random
        self._added = 0
        self._heap: list[tuple[float, int, int, T]] = []  # priority, order (items are not compared), count, item

    def add(self, item: T, count: int) -> None:
        """Add an item; the same one may be added again with another count, as an item of its own."""
        self._added += 1
        entry = (count / (1.0 - self._random.random()), self._added, count, item)
        if len(self._heap) <= self._most:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def take(self) -> list[tuple[T, int, float]]:
        """The sampled items in the order in which they were added, each with its count and its weight; begins anew.

        A weight is at least the count, and is the count itself where no item had to be left out.
        """
        heap, self._heap = self._heap, []
        threshold = heapq.heappop(heap)[0] if len(heap) > self._most else 0.0
        return [(item, count, max(float(count), threshold)) for _, _, count, item in sorted(heap, key=lambda x: x[1])]

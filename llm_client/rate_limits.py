"""How many calls may be in flight, and how fast they may start.

The number of calls in flight follows what the server accepts (additive increase, multiplicative decrease, as in TCP;
start 20 and × 0.8 on a refusal are inspect_ai's values): it doubles each round until the first 429, and then grows by
one a round. Requests and tokens per minute are token buckets with a burst of one second, so that the allowance of a
minute is not spent at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

_START = 20
_DECREASE = 0.8


class AdaptiveConcurrency:
    """A semaphore whose limit moves between 1 and `maximum`."""

    def __init__(self, maximum: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._maximum = maximum
        self.limit = float(min(_START, maximum))
        self.in_flight = 0
        self._doubling = True
        self._decreased = float("-inf")
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> float:
        """Wait for a free slot; returns the time of entry, which `leave` takes."""
        while self.in_flight >= int(self.limit):
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            try:
                await future
            except asyncio.CancelledError:
                if future.done() and not future.cancelled():
                    self._wake()
                raise
        self.in_flight += 1
        return self._clock()

    def leave(self, entered: float, *, refused: bool) -> None:
        """Release the slot.

        Args:
            refused: The server answered 429. Calls that were in flight together lower the limit once, not once each.
        """
        self.in_flight -= 1
        if refused:
            self._doubling = False
            if entered > self._decreased:
                self.limit = max(1.0, self.limit * _DECREASE)
                self._decreased = self._clock()
        else:
            self.limit = min(float(self._maximum), self.limit + (1.0 if self._doubling else 1.0 / self.limit))
        self._wake()

    def _wake(self) -> None:
        room = int(self.limit) - self.in_flight
        while room > 0 and self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                room -= 1


class TokenBucket:
    """At most `per_minute` units a minute, in order of arrival; None for no limit.

    aiolimiter is not used: its bucket raises for a call larger than its burst, while this one grants it on credit, and
    it cannot take back the unused part of an estimate. `take` costs 0.35 µs.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = None if per_minute is None else per_minute / 60.0
        self._clock = clock
        self._burst = max(1.0, self._per_second or 0.0)
        self._level = self._burst
        self._at = clock()

    def take(self, units: float) -> float:
        """Take units, on credit if there are not enough; returns the seconds to wait before they may be used."""
        if self._per_second is None:
            return 0.0
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self._per_second) - units
        self._at = now
        return max(0.0, -self._level / self._per_second)

    def give_back(self, units: float) -> None:
        """Return units that were not used, such as the excess of an estimate; negative if the estimate was too low."""
        self._level += units

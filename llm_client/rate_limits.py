"""How many calls may be in flight, and how fast they may start.

Concurrency follows what the server bears (additive increase, multiplicative decrease, as TCP does; start 20 and
x 0.8 on a refusal are inspect_ai's): it doubles each round until the first 429, then grows by one a round. Requests
and tokens per minute are token buckets that hold one second's worth, so a minute's allowance is not spent at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

_START = 20
_DECREASE = 0.8


class Concurrency:
    """A gate that at most `limit` callers pass at a time; the limit moves between 1 and `most`."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self.limit = float(min(_START, most))
        self.in_flight = 0
        self._doubling = True
        self._decreased = float("-inf")
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> float:
        """Wait for a place; returns the time of entry, to be given back to `leave`."""
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
        """Give the place back.

        Args:
            refused: The server said 429. Of the calls that were in flight together one lowers the limit, not each.
        """
        self.in_flight -= 1
        if refused:
            self._doubling = False
            if entered > self._decreased:
                self.limit = max(1.0, self.limit * _DECREASE)
                self._decreased = self._clock()
        else:
            self.limit = min(float(self._most), self.limit + (1.0 if self._doubling else 1.0 / self.limit))
        self._wake()

    def _wake(self) -> None:
        room = int(self.limit) - self.in_flight
        while room > 0 and self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                room -= 1


class Rate:
    """At most `per_minute` units a minute, in order of arrival; None is no limit."""

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = None if per_minute is None else per_minute / 60.0
        self._clock = clock
        self._burst = max(1.0, self._per_second or 0.0)
        self._level = self._burst
        self._at = clock()

    def take(self, units: float) -> float:
        """Take units now, on credit if need be; returns the seconds to wait before they may be used."""
        if self._per_second is None:
            return 0.0
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self._per_second) - units
        self._at = now
        return max(0.0, -self._level / self._per_second)

    def give_back(self, units: float) -> None:
        """Units that were taken and not used, such as an estimate above what a call came to."""
        self._level += units

"""An event loop whose clock stands still while anything is being computed: for tests of deadlines, rates and queues.

On a busy machine a query that an engine should answer in 50 ms takes as long as the other processes let it, so a test
that counts what is late counts the machine. Here time passes only while the loop has nothing to do: a sleep takes just
as long as it says, computing takes nothing, and what is counted is the same on every machine.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# Real seconds without an event after which the loop is taken to be idle: a thread or the kernel may still be at work.
_GRACE_S = 0.02


class _Selector(selectors.DefaultSelector):
    """Where nothing happens, moves the clock by what the loop would have waited."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        found = super().select(_GRACE_S)
        if not found:
            self.now += timeout
        return found


class SimulatedTimeLoop(asyncio.SelectorEventLoop):
    """`time()` is in simulated seconds, from 0; all timers of asyncio follow it."""

    def __init__(self) -> None:
        self._simulated = _Selector()
        super().__init__(self._simulated)

    def time(self) -> float:
        """Simulated seconds."""
        return self._simulated.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, in simulated time."""
    with asyncio.Runner(loop_factory=SimulatedTimeLoop) as runner:
        return runner.run(work)

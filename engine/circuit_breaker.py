"""The circuit breaker: an engine that fails is left alone for a while, so that its callers fail at once, not slowly."""

from __future__ import annotations

import time
from dataclasses import dataclass

FAILURES = 5
# One question in two seconds is nothing to an engine, and a longer pause would be added to every restart.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 2.0


@dataclass(slots=True)
class Breaker:
    """Closed at first; open for a pause after `FAILURES` in a row; then one call is let through to try.

    The pause doubles each time that the trial fails, and is forgotten at the first success.
    """

    failures: int = 0
    pause: float = FIRST_PAUSE
    open_until: float | None = None
    trying: bool = False

    def wait(self, now: float | None = None) -> float:
        """0 where a call may go ahead (then report its end), else the seconds until it is worth coming back."""
        if self.open_until is None:
            return 0.0
        left = self.open_until - (time.monotonic() if now is None else now)
        if left > 0:
            return left
        if self.trying:
            return self.pause
        self.trying = True
        return 0.0

    def succeeded(self) -> None:
        """A call was answered."""
        self.failures, self.pause, self.open_until, self.trying = 0, FIRST_PAUSE, None, False

    def failed(self, now: float | None = None) -> None:
        """A call was not."""
        now = time.monotonic() if now is None else now
        self.failures += 1
        if self.trying:
            self.pause = min(LONGEST_PAUSE, self.pause * 2)
        if self.trying or self.failures >= FAILURES:
            self.open_until, self.trying = now + self.pause, False

    def abandoned(self) -> None:
        """A call ended without saying anything about the engine: its caller went away."""
        self.trying = False

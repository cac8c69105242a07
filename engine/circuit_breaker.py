"""Circuit breaker: after repeated failures no calls are sent to an engine for a while, so that callers fail at once."""

from __future__ import annotations

import time
from dataclasses import dataclass

FAILURES = 5
# A trial request every two seconds is cheap, and a longer pause would delay every restart.
FIRST_PAUSE, MAX_PAUSE = 0.5, 2.0


@dataclass(slots=True)
class Breaker:
    """Closed at first; open for a pause after `FAILURES` failures in a row; then half-open: one call is a trial.

    The pause doubles each time that the trial fails, and is reset at the first success. Times are `time.monotonic()`.
    """

    failures: int = 0
    pause: float = FIRST_PAUSE
    open_until: float | None = None
    trying: bool = False

    def wait(self, now: float | None = None) -> float:
        """0 if a call may be made now (its outcome must be reported), else the seconds until the next attempt."""
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
        """A call was not answered."""
        now = time.monotonic() if now is None else now
        self.failures += 1
        if self.trying:
            self.pause = min(MAX_PAUSE, self.pause * 2)
        if self.trying or self.failures >= FAILURES:
            self.open_until, self.trying = now + self.pause, False

    def abandoned(self) -> None:
        """A call ended without a result: its caller was cancelled."""
        self.trying = False

"""The engine's throughput, and from it how long a queue takes: requests that cannot meet their deadline are refused."""

from __future__ import annotations

from dataclasses import dataclass

_WINDOW_S = 5.0
_MIN_BUSY_S, _MIN_ANSWERS = 0.5, 10


@dataclass(kw_only=True, slots=True)
class Throughput:
    """Answers per second while queries wait, over about the last five seconds of such time.

    Idle time does not count: an engine that is asked twice a second may well answer more. Single queries show less than
    batches can do, so the estimate errs on the low side, and rises as soon as there is a queue. Times are those of the
    event loop, in seconds.
    """

    answers: float = 0.0
    busy_s: float = 0.0
    _busy_since: float | None = None

    def started(self, now: float) -> None:
        """A query waits."""
        if self._busy_since is None:
            self._busy_since = now

    def completed(self, *, answers: int, waiting: int, now: float) -> None:
        """Record how many answers came and how many queries still wait."""
        if self._busy_since is not None:
            self.busy_s += now - self._busy_since
        self._busy_since = now if waiting else None
        self.answers += answers
        if self.busy_s > _WINDOW_S:
            keep = _WINDOW_S / self.busy_s
            self.busy_s, self.answers = self.busy_s * keep, self.answers * keep

    def seconds_for(self, waiting: int) -> float:
        """Estimated seconds for this many queries; 0 while too few have been answered for an estimate."""
        if self.busy_s < _MIN_BUSY_S or self.answers < _MIN_ANSWERS:
            return 0.0
        return waiting * self.busy_s / self.answers

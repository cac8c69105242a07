"""How fast the engine answers, and so how long a queue takes: what will be late is better refused at once."""

from __future__ import annotations

from dataclasses import dataclass

_MEMORY_S = 5.0
_LEAST_S, _LEAST_ANSWERS = 0.5, 10


@dataclass(slots=True)
class Pace:
    """Answers per second of work, over the last few seconds in which there was any.

    Only time in which somebody waited counts: an engine that is asked twice a second is not one that can do no more.
    A single question at a time shows less than what batches can do, so the estimate is on the safe side, and rises
    as soon as there is a queue.
    """

    done: float = 0.0
    busy: float = 0.0
    _since: float | None = None

    def began(self, now: float) -> None:
        """Somebody waits."""
        if self._since is None:
            self._since = now

    def landed(self, answers: int, waiting: int, now: float) -> None:
        """So many answers came, and so many are still waited for."""
        if self._since is not None:
            self.busy += now - self._since
        self._since = now if waiting else None
        self.done += answers
        if self.busy > _MEMORY_S:
            keep = _MEMORY_S / self.busy
            self.busy, self.done = self.busy * keep, self.done * keep

    def seconds_for(self, waiting: int) -> float:
        """How long so many will take; 0 where nothing is known yet."""
        if self.busy < _LEAST_S or self.done < _LEAST_ANSWERS:
            return 0.0
        return waiting * self.busy / self.done

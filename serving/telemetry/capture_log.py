"""What a gateway process keeps of the answers that it gave: a weighted sample for each window of time.

Answers are counted by bundle, query, source and status in the event loop, at the cost of one look-up each. When a
window ends, or there are very many different ones, they are sampled and written in a thread.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from serving.telemetry.kept_files import KeptFiles
from serving.telemetry.sampling import PrioritySample
from task.captures import Capture, file_of

Keep = Literal["query", "hash", "nothing"]

_MOST_KEYS: Final = 20_000  # different answers in memory before they are sampled
_MOST_PARTS: Final = 8  # of so many answers that wait for the thread; a disk that hangs must not fill the memory
_POLL_S: Final = 0.25

Key = tuple[str, str, str, str]  # bundle, query, source, status


@dataclass(slots=True)
class _Seen:
    """An answer that clients were given, and how often."""

    key: Key
    task: str
    probability: float | None
    labels: bytes
    keep: Keep
    count: int = 1


@dataclass(frozen=True, slots=True)
class _Part:
    """What was counted in a part of a window; `ended` is the window's end where this is its last part, else None."""

    seen: dict[Key, _Seen]
    ended: float | None


class CaptureLog:
    """The captures of one process.

    Attributes:
        lost: Rows that were not written: the disk is full, or slower than the traffic.
    """

    def __init__(
        self, files: KeptFiles, *, rows: int, window_s: float, on_written: Callable[[str, int], None] = lambda *_: None,
        random: Random | None = None, clock: Callable[[], float] = time.time, most_keys: int = _MOST_KEYS,
    ) -> None:
        """Begin the first window.

        Args:
            rows: How many are written for each window, at most.
            on_written: Called in the writing thread with the id of a bundle and how many rows of it were written.
            clock: Seconds since 1970.
            most_keys: Different answers that are counted before they are sampled.
        """
        self._files, self._window_s, self._on_written, self._clock = files, window_s, on_written, clock
        self._most_keys = most_keys
        self._sample: PrioritySample[_Seen] = PrioritySample(rows, random or Random())
        self._seen: dict[Key, _Seen] = {}
        self._parts: deque[_Part] = deque()
        self._writing = threading.Lock()
        self._began = self._since = clock()
        self.lost = 0

    def add(
        self, *, bundle: str, task: str, query: str, source: str, status: str, probability: float | None, labels: bytes,
        keep: Keep,
    ) -> None:
        """Count an answer that a client is given; one to a blank query is none.

        Args:
            bundle: The id.
            labels: As JSON.
            keep: What may be kept of the query (`serving.certain.keep`).
        """
        key = (bundle, query, source, status)
        seen = self._seen.get(key)
        if seen is not None:
            seen.count += 1
        elif query.strip():
            self._seen[key] = _Seen(key, task, probability, labels, keep)
            if len(self._seen) >= self._most_keys:
                self._part(None)

    def turn(self, *, end: bool = False) -> bool:
        """End the window if its time is over, or in any case, in the thread that adds; is anything to be written?"""
        now = self._clock()
        if end or not 0 <= now - self._began < self._window_s:  # negative: somebody has set the clock back
            self._began = now
            self._part(now)
        return bool(self._parts)

    def _part(self, ended: float | None) -> None:
        seen, self._seen = self._seen, {}
        if ended is None and len(self._parts) >= _MOST_PARTS:
            self.lost += len(seen)
        else:
            self._parts.append(_Part(seen, ended))

    def write(self) -> None:
        """Sample what was counted, and write the samples of the windows that have ended; in any thread."""
        with self._writing:
            while self._parts:
                part = self._parts.popleft()
                for seen in part.seen.values():
                    self._sample.add(seen, seen.count)
                if part.ended is not None:
                    self._write(part.ended)

    def _write(self, ended: float) -> None:
        since, self._since = self._since, ended
        sampled = [self._capture(seen, weight, ended) for seen, _, weight in self._sample.take()]
        lost = self._files.append(
            file_of(self._files.captures, ended), [c.row() for c in sampled], since=min(since, ended)
        )
        self.lost += lost
        if not lost:
            for bundle, rows in Counter(c.bundle for c in sampled).items():
                self._on_written(bundle, rows)

    def _capture(self, seen: _Seen, weight: float, at: float) -> Capture:
        bundle, query, source, status = seen.key
        return Capture(
            query=query if seen.keep == "query" else None,
            keyed_hash=self._files.key.hash(query) if seen.keep == "hash" else None,
            count=seen.count, weight=weight, source=source, status=status, bundle=bundle, task=seen.task,
            probability=seen.probability, roles=dict(Counter(label["role"] for label in json.loads(seen.labels))),
            at=round(at, 3),
        )


async def keep_capturing(log: CaptureLog) -> None:
    """Write the captures in a thread, again and again until cancelled; then those of the window that has begun."""
    try:
        while True:
            await asyncio.sleep(_POLL_S)
            if log.turn():
                await asyncio.to_thread(log.write)
    finally:
        log.turn(end=True)
        log.write()

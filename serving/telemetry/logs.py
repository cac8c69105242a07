"""Logs that cannot hurt the service: lines wait in memory and are written in a thread; a full disk costs lines only."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from task.serving_settings import Certain

_MOST = 20_000
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class LineLog:
    """JSON lines appended to a file that others may append to as well, or move away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[bytes] = []
        self.dropped = 0

    def add(self, row: dict[str, Any]) -> None:
        """Note a row; it is written with the next `flush`."""
        if len(self._lines) < _MOST:
            self._lines.append(_encode(row).encode() + b"\n")
        else:
            self.dropped += 1

    def flush(self) -> None:
        """Write what waits; what cannot be written is counted and forgotten."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        data = b"".join(lines)
        try:
            # Opened each time: whoever rotates logs moves the file away. O_APPEND keeps the workers' lines apart.
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            try:
                written = os.write(handle, data)
            finally:
                os.close(handle)
            if written < len(data):
                self.dropped += data[written:].count(b"\n")
        except OSError:
            self.dropped += len(lines)


@dataclass(slots=True)
class _Doubt:
    probability: float
    keep: str
    count: int = 1


class DoubtLog:
    """Queries that the student was not sure of, with how often they came: what to label next.

    A query that was sampled is sampled everywhere and always: its hash decides.
    """

    def __init__(self, log: LineLog) -> None:
        self._log = log
        self._counts: dict[tuple[str, str], _Doubt] = {}

    def add(self, bundle: str, query: str, probability: float, settings: Certain) -> None:
        """Count one, as the settings of its bundle allow."""
        if settings.keep == "nothing":
            return
        digest = hashlib.sha256(query.encode()).hexdigest()
        if int(digest[:8], 16) >= settings.sample * 2**32:
            return
        row = self._counts.get((bundle, query))
        if row is not None:
            row.count += 1
        elif len(self._counts) < _MOST:
            self._counts[bundle, query] = _Doubt(probability, settings.keep)
        else:
            self._log.dropped += 1

    def flush(self) -> None:
        """A line for each query since the last time."""
        counts, self._counts = self._counts, {}
        at = round(time.time(), 3)
        for (bundle, query), doubt in counts.items():
            text = {"query": query} if doubt.keep == "query" else {
                "sha256": hashlib.sha256(query.encode()).hexdigest()
            }
            self._log.add({
                **text, "count": doubt.count, "probability": doubt.probability, "bundle": bundle, "at": at,
            })
        self._log.flush()


async def keep_flushing(log: LineLog, doubts: DoubtLog | None, every_s: float = 0.25, doubts_s: float = 5.0) -> None:
    """Write both logs in a thread until cancelled, and then once more."""
    last = time.monotonic()
    try:
        while True:
            await asyncio.sleep(every_s)
            await asyncio.to_thread(log.flush)
            if doubts is not None and time.monotonic() - last >= doubts_s:
                last = time.monotonic()
                await asyncio.to_thread(doubts.flush)
    finally:
        with contextlib.suppress(OSError):
            log.flush()
            if doubts is not None:
                doubts.flush()

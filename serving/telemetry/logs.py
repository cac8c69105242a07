"""Logs that cannot slow the service down: lines are buffered and written in a thread; a full disk loses lines only."""

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

from serving.telemetry.kept_files import KeptFiles
from task.serving_settings import Certain
from task.text import one_line

_MAX_BUFFERED = 20_000
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class LineLog:
    """JSON lines appended to a file that other processes may append to as well, or move away to rotate it.

    Attributes:
        dropped: Lines that were not written: too many at once, or a full disk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[bytes] = []
        self.dropped = 0

    def add(self, row: dict[str, Any]) -> None:
        """Buffer a row until the next `flush`."""
        if len(self._lines) < _MAX_BUFFERED:
            self._lines.append(one_line(_encode(row)).encode(errors="replace") + b"\n")
        else:
            self.dropped += 1

    def flush(self) -> None:
        """Write the buffered lines; those that cannot be written are counted and dropped."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        data = b"".join(lines)
        try:
            # Opened each time, because log rotation moves the file away. O_APPEND keeps the workers' lines whole.
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
class _Uncertain:
    probability: float
    keep: str
    count: int = 1


class UncertainLog:
    """Queries with uncertain labels, and how often they came: candidates for the next labelling round.

    Sampling is by the query's hash, so that all processes sample the same queries.

    Attributes:
        dropped: Lines that were not written: too many queries at once, or a full disk.
    """

    def __init__(self, files: KeptFiles) -> None:
        self._files = files
        self._counts: dict[tuple[str, str], _Uncertain] = {}
        self._since = time.time()
        self.dropped = 0

    def add(self, *, bundle: str, query: str, probability: float, settings: Certain) -> None:
        """Count a query, where the settings of its bundle ask for it; `bundle` is the id."""
        if settings.keep == "nothing":
            return
        digest = hashlib.sha256(query.encode()).hexdigest()
        if int(digest[:8], 16) >= settings.sample * 2**32:
            return
        row = self._counts.get((bundle, query))
        if row is not None:
            row.count += 1
        elif len(self._counts) < _MAX_BUFFERED:
            self._counts[bundle, query] = _Uncertain(probability, settings.keep)
        else:
            self.dropped += 1

    def flush(self) -> None:
        """Write a line for each query since the last flush; those that cannot be written are counted and dropped."""
        since, self._since = self._since, time.time()  # before the next query is counted
        counts, self._counts = self._counts, {}
        rows = []
        for (bundle, query), row in counts.items():
            text = {"query": query} if row.keep == "query" else {"keyed_hash": self._files.key.hash(query)}
            rows.append({
                **text, "count": row.count, "probability": row.probability, "bundle": bundle,
                "at": round(self._since, 3),
            })
        self.dropped += self._files.append(self._files.uncertain, rows, since=min(since, self._since))


async def keep_flushing(
    log: LineLog, uncertain: UncertainLog | None, *, every_s: float = 0.25, uncertain_every_s: float = 5.0
) -> None:
    """Flush both logs in a thread, again and again until cancelled, and then once more."""
    last = time.monotonic()
    try:
        while True:
            await asyncio.sleep(every_s)
            await asyncio.to_thread(log.flush)
            if uncertain is not None and time.monotonic() - last >= uncertain_every_s:
                last = time.monotonic()
                await asyncio.to_thread(uncertain.flush)
    finally:
        with contextlib.suppress(OSError):
            log.flush()
            if uncertain is not None:
                uncertain.flush()

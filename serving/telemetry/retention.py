"""How long what is kept of clients' queries stays: `serving.capture.days`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from serving.telemetry.kept_files import DAY_S, KeptFiles

_PAUSE_S: Final = 3_600.0  # at most, between two looks at the time: it may be set, or the machine may sleep


async def expire_daily(files: KeptFiles, *, days: int, clock: Callable[[], float] = time.time) -> None:
    """Remove what is older than `days`, now and at the beginning of each day (UTC), until cancelled.

    What cannot be removed, because the disk is full, is tried again within an hour.

    Args:
        clock: Seconds since 1970.
    """
    done = None
    while True:
        now = clock()
        if now // DAY_S != done:
            try:
                await asyncio.to_thread(files.expire, days=days, now=now)
                done = now // DAY_S
            except OSError:
                pass
        await asyncio.sleep(min(_PAUSE_S, DAY_S - now % DAY_S))

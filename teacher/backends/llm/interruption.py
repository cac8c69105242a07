"""Ctrl-C and SIGTERM during a job of calls: no new one is sent; those in flight are waited for, because they are paid.

The first cancels the job, whose client then waits (`llm_client.client.Client.finish`); the second ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

_Found = TypeVar("_Found")


def run(main: Coroutine[Any, Any, _Found]) -> _Found:
    """Run a coroutine as `uvloop.run` does.

    Raises:
        KeyboardInterrupt: Stopped; after the first signal once the coroutine has ended.
    """
    job: asyncio.Task[Any] | None = None

    async def known() -> _Found:
        nonlocal job
        job = asyncio.current_task()
        return await main

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(known())
        except KeyboardInterrupt:
            # asyncio has cancelled the job, but where SIGINT is ignored (nohup, the background of a shell): SIGTERM
            # then raises in the loop itself, and the job still stands where it was.
            if job is not None and not job.done() and not job.cancelling():
                job.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    runner.get_loop().run_until_complete(job)
            raise

"""Group commit: records of many concurrent callers go into one transaction, those that arrive meanwhile in the next."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from llm_client.attempt import Attempt
from teacher.ledger.records import LedgerAccess, LedgerRow

# Replies arrive in bursts: one commit for a burst costs less than one each, and the wait is short beside a call.
_GATHER_S = 0.002


class GroupCommit:
    """Writes to a ledger in a thread, so that a slow disk delays no other call; a caller waits for its own commit."""

    def __init__(self, ledger: LedgerAccess) -> None:
        self._ledger = ledger
        self._attempts: list[Attempt] = []
        self._rows: list[LedgerRow] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._writer: asyncio.Task[None] | None = None

    async def record(self, attempts: Sequence[Attempt], rows: Sequence[LedgerRow] = ()) -> None:
        """An `llm_client.attempt.AttemptRecorder` that also takes rows that follow from the attempts.

        A failed write raises in every caller whose attempts or rows were in it.
        """
        self._attempts += attempts
        self._rows += rows
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await asyncio.shield(future)

    async def flush(self) -> None:
        """Wait until all records are on disk, also those of cancelled callers."""
        while self._writer is not None:
            await asyncio.wait([self._writer])

    async def _write(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(_GATHER_S)
                attempts, rows, waiting = self._attempts, self._rows, self._waiting
                self._attempts, self._rows, self._waiting = [], [], []
                try:
                    await asyncio.to_thread(self._ledger.record, attempts, rows)
                except Exception as error:  # noqa: BLE001 (raised in the callers that wait for it)
                    for f in waiting:
                        if not f.done():
                            f.set_exception(error)
                else:
                    for f in waiting:
                        if not f.done():
                            f.set_result(None)
        finally:
            self._writer = None

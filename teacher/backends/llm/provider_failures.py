"""Notices that every call of a job fails alike: a wrong key, URL or model, a spent quota, a server that is down.

Nothing is gained by sending the rest of the log, so the job stops after `ALIKE` queries in a row that failed for one
reason. A query counts only if no answer has come since it was first asked: calls that are tried again end later than
those that were sent with them, so that the failures of a healthy server come in a row too. Until the first answer has
come, no more queries are asked than are needed to know.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from llm_client.attempt import Attempt
from llm_client.connection import authorization
from llm_client.error_text import short_error
from task.errors import ComponentError
from task.settings import OpenAI
from teacher.ledger.recorder import GroupCommit
from teacher.ledger.records import LedgerRow

ALIKE: Final = 10
# These may be about the query (a content filter, a prompt that is too long). They end a job only if nothing was ever
# answered: otherwise refused queries of earlier runs, which are asked first, would keep all others from being asked.
_OF_THE_QUERY: Final = frozenset({
    "HTTP 400", "HTTP 403", "HTTP 413", "HTTP 414", "HTTP 422", "HTTP 451", "no text in the answer",
})
_STATUS: Final = re.compile(r"HTTP (\d{3})")


class ProviderError(ComponentError):
    """Every call fails alike; the message has the provider's own words."""


class FailureWatch:
    """An `llm_client.attempt.AttemptRecorder` that stops a job whose calls all fail alike.

    Args:
        recorder: Stores the attempts.
        settings: Of the endpoint.
        answered: Whether the ledger has answers already.
    """

    def __init__(self, recorder: GroupCommit, settings: OpenAI, *, answered: bool) -> None:
        self._recorder, self._settings = recorder, settings
        self._ever_answered = answered
        self._answered = False
        self._answers = 0
        self._asked = 0  # queries that are being asked, counted until the first answer
        self._changed = asyncio.Condition()
        self._failed: dict[str, Attempt] = {}  # request → its last attempt, if that gave no reply
        self._kind, self._alike = "", 0
        self._stopped: ProviderError | None = None

    async def record(self, attempts: Sequence[Attempt], rows: Sequence[LedgerRow] = ()) -> None:
        """See `GroupCommit.record`.

        Raises:
            ProviderError: The job has been stopped, and this is one more failure: it is not tried again.
        """
        await self._recorder.record(attempts, rows)
        for a in attempts:
            self._failed[a.request] = a
            if a.outcome in {"ok", "truncated"}:
                del self._failed[a.request]
            if a.outcome == "error":
                if self._stopped:
                    raise self._stopped
            else:
                self._alike = 0
                self._answers += 1
                if not self._answered:
                    self._answered = self._ever_answered = True
                    async with self._changed:
                        self._changed.notify_all()

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[int]:
        """Held while a query is asked; until the first answer it lets through only as many as may still stop the job.

        Yields:
            The number of answers that had come before, for `gave_up`.

        Raises:
            ProviderError: The job has been stopped.
        """
        if not self._answered:
            async with self._changed:
                await self._changed.wait_for(
                    lambda: self._answered or self._stopped or self._asked + self._counting < ALIKE
                )
        if self._stopped:
            raise self._stopped
        self._asked += 1
        try:
            yield self._answers
        finally:
            self._asked -= 1
            if not self._answered:
                async with self._changed:
                    self._changed.notify_all()

    def gave_up(self, request: str, answers_before: int) -> str | None:
        """Count a request that no attempt got a usable answer to; returns why, None if it did not fail.

        Args:
            answers_before: What `asking` yielded for its query.

        Raises:
            ProviderError: It is one too many.
        """
        failed = self._failed.pop(request, None)
        error = "" if failed is None else failed.error or ""
        if failed is None or failed.outcome != "error":
            return short_error(error) or None
        kind = error.partition(":")[0]
        if self._answers > answers_before:
            return short_error(error)
        self._alike = self._alike + 1 if kind == self._kind else 1
        self._kind = kind
        if self._counting >= ALIKE:
            self._stopped = ProviderError(self._message(kind, short_error(error)))
            raise self._stopped
        return short_error(error)

    @property
    def _counting(self) -> int:
        """Failures in a row that count towards a stop."""
        return 0 if self._kind in _OF_THE_QUERY and self._ever_answered else self._alike

    def _message(self, kind: str, words: str) -> str:
        s = self._settings
        where = f"{s.model} at {s.base_url}" if s.base_url.startswith("http") else s.model
        return (
            f"{ALIKE} queries in a row failed alike, so no more are sent to {where}: {words.rstrip('.')}. "
            f"{_advice(kind, s)}; then run the same command: what was answered is kept"
        )


def _advice(kind: str, settings: OpenAI) -> str:
    status = _STATUS.match(kind)
    number = int(status[1]) if status else 0
    if number in {401, 403, 407}:
        variable = settings.api_key_env
        return f"Check the key in {variable}" if authorization(variable) else f"Set {variable}: it is not set"
    if number in {402, 429}:
        return "Check the account's quota and rate limits, and teacher.openai.requests_per_minute"
    if number in {400, 413, 415, 422}:
        return "Check teacher.openai: model, structured_output, max_tokens and extra_body"
    if number >= 500 or kind.startswith("Timeout"):
        return "Wait until the server is well, or check teacher.openai.base_url and .concurrency"
    return "Check teacher.openai.base_url and .model"

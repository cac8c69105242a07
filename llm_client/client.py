"""Asking an OpenAI-compatible endpoint: one call, its retries, and what each attempt leaves in the ledger.

aiohttp and a body encoded once, because a labelling job is bound by the client's CPU: the OpenAI SDK costs 2.4 ms
and more a call. What is tried again and what is not is decided here and nowhere below: a 4xx is final; 408, 409, 429
and 5xx, broken connections and time-outs are tried again after the server's Retry-After or a growing pause; an answer
cut by the token limit is an error; one that cannot be read is sent back once, alone, to be put right.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import aiohttp

from llm_client.attempt import Attempt, AttemptRecorder, Outcome, Reply
from llm_client.budget import Purse
from llm_client.prices import Price, needed_price, price_of
from llm_client.rate_limits import Concurrency, Rate
from llm_client.request import Request
from task.settings import OpenAI

_RETRIED = frozenset({408, 409, 429})
_LONGEST_PAUSE = 30.0
_LONGEST_RETRY_AFTER = 300.0
_ERROR_CHARS = 500


@dataclass(frozen=True, slots=True)
class _Try:
    """One call's outcome: what goes to the ledger, and the seconds before another try, None for never."""

    attempt: Attempt
    wait: float | None
    status: int = 0


class Client:
    """Makes calls, and hands every attempt to the recorder before anybody sees its reply.

    Args:
        settings: Of the endpoint.
        recorder: Keeps the attempts.
        usable: Whether an answer to a request of a purpose can be used.
        purse: Keeps the budget.
        address: Gives the base URL where it is not the settings'; called once, in a thread, before the first call.
    """

    def __init__(
        self, settings: OpenAI, recorder: AttemptRecorder, usable: Callable[[str, str], bool], purse: Purse,
        backend: str = "openai", address: Callable[[], str] | None = None,
    ) -> None:
        self._settings = settings
        self._recorder = recorder
        self._usable = usable
        self._backend = backend
        self.price: Price | None = needed_price(settings) if settings.budget else price_of(settings)
        self._purse = purse
        self.gate = Concurrency(settings.concurrency)
        self._requests = Rate(settings.requests_per_minute)
        self._tokens = Rate(settings.tokens_per_minute)
        self._address = address or (lambda: settings.base_url)
        self._url: asyncio.Future[str] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers={"Content-Type": "application/json", **authorization(self._settings)},
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s),
            connector=aiohttp.TCPConnector(limit=self._settings.concurrency, ttl_dns_cache=300),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def ask(self, request: Request, repair: Callable[[str], Request] | None = None) -> Reply | None:
        """The reply, usable or cut by the token limit; None when every try failed.

        Args:
            repair: Makes the request that has an unreadable answer put right; tried once.

        Raises:
            BudgetSpentError: The call could cross the budget; nothing was sent.
        """
        found = await self._tries(request)
        if found.outcome == "invalid" and repair is not None and found.reply is not None:
            found = await self._tries(replace(repair(found.reply), key=request.key))
        if found.outcome not in {"ok", "truncated"}:
            return None
        return Reply(found.reply or "", found.details, cut=found.outcome == "truncated")

    async def _tries(self, request: Request) -> Attempt:
        deadline = time.monotonic() + self._settings.deadline_s
        number = 0
        while True:
            number += 1
            made = await self._one(request)
            pause = None if made.wait is None else max(made.wait, _pause(number))
            last = number >= self._settings.max_attempts
            if pause is None or last or time.monotonic() + pause > deadline:
                return made.attempt
            await asyncio.sleep(pause)

    async def _one(self, request: Request) -> _Try:
        """One call under the limits; its attempt is on disk before anybody uses its reply.

        Its place goes to another as soon as the answer is here: the server is not kept waiting for our disk.
        """
        most = self.price.of(request.most_tokens[0], 0, request.most_tokens[1]) if self.price else 0.0
        await self._purse.reserve(most)
        cost, refused, entered = 0.0, False, None
        try:
            entered = await self.gate.enter()
            prompt_guess = request.most_tokens[0] / 4 + request.most_tokens[1]
            wait = max(self._requests.take(1.0), self._tokens.take(prompt_guess))
            if wait:
                await asyncio.sleep(wait)
            made = await self._send(request)
            refused = made.status == 429
            a = made.attempt
            self._tokens.give_back(prompt_guess - a.prompt_tokens - a.completion_tokens)
            cost = a.cost
        finally:
            self._purse.settle(most, cost)
            if entered is not None:
                self.gate.leave(entered, refused=refused)
        await self._recorder.record([a])
        return made

    async def _send(self, request: Request) -> _Try:
        assert self._session is not None
        if self._url is None:  # the first caller finds it, the others wait for what it finds
            self._url = asyncio.ensure_future(asyncio.to_thread(self._address))
        url = (await asyncio.shield(self._url)).rstrip("/") + "/chat/completions"
        started = time.monotonic()

        def attempt(outcome: Outcome, error: str | None = None, **more: Any) -> Attempt:
            return Attempt(
                request.key, request.query, self._backend, self._settings.model, request.evidence, error=error,
                outcome=outcome, purpose=request.purpose, latency_s=time.monotonic() - started, **more,
            )

        try:
            async with self._session.post(url, data=request.content) as response:
                raw = await response.read()
                if response.status != 200:
                    again = response.status in _RETRIED or response.status >= 500
                    wait = _retry_after(response.headers.get("Retry-After")) if again else None
                    text = raw[:_ERROR_CHARS].decode(errors="replace")
                    return _Try(attempt("error", f"HTTP {response.status}: {text}"), wait, response.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            return _Try(attempt("error", f"{type(error).__name__}: {error}"), 0.0)
        return read_completion(raw, request.purpose, self._usable, self.price, attempt)


def authorization(settings: OpenAI) -> dict[str, str]:
    """The header with the key from the environment, where there is one."""
    key = os.environ.get(settings.api_key_env, "")
    return {"Authorization": f"Bearer {key}"} if key else {}


def read_completion(
    raw: bytes, purpose: str, usable: Callable[[str, str], bool], price: Price | None,
    attempt: Callable[..., Attempt],
) -> _Try:
    """A chat completion's body as an attempt."""
    try:
        body = json.loads(raw)
        choices = body["choices"]
        contents = [c["message"]["content"] for c in choices]
        first = choices[0]
    except (ValueError, LookupError, TypeError):
        text = raw[:_ERROR_CHARS].decode(errors="replace")
        return _Try(attempt("error", f"not a chat completion: {text}"), 0.0)
    tokens = _usage(body.get("usage"))
    cost = price.of(*tokens) if price else 0.0
    paid = {"prompt_tokens": tokens[0], "cached_tokens": tokens[1], "completion_tokens": tokens[2], "cost": cost}
    content = contents[0]
    if not isinstance(content, str):
        return _Try(attempt("error", f"no text in the answer: {str(first)[:_ERROR_CHARS]}", **paid), None)
    details: dict[str, Any] = {}
    if len(contents) > 1:
        details["samples"] = [c for c in contents[1:] if isinstance(c, str)]
    logprobs = (first.get("logprobs") or {}).get("content")
    if logprobs:
        details["logprobs"] = [[t["token"], round(t["logprob"], 4)] for t in logprobs]
    said: dict[str, Any] = {"reply": content, "details": details, **paid}
    if first.get("finish_reason") == "length":
        return _Try(attempt("truncated", "the answer was cut by max_tokens", **said), None)
    if not usable(purpose, content):
        return _Try(attempt("invalid", "the answer cannot be read", **said), None)
    return _Try(attempt("ok", **said), None)


def _usage(usage: Mapping[str, Any] | None) -> tuple[int, int, int]:
    """Prompt, cached and completion tokens."""
    usage = usage or {}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    return int(usage.get("prompt_tokens") or 0), int(cached or 0), int(usage.get("completion_tokens") or 0)


def _pause(number: int) -> float:
    """Full jitter (Brooker 2015): callers that failed together do not come back together."""
    return random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE, 0.5 * 2.0 ** (number - 1))


def _retry_after(value: str | None) -> float:
    """Seconds from a Retry-After header, which holds seconds or a date."""
    if not value:
        return 0.0
    try:
        return min(_LONGEST_RETRY_AFTER, max(0.0, float(value)))
    except ValueError:
        pass
    try:
        at = email.utils.parsedate_to_datetime(value).timestamp()
    except ValueError:
        return 1.0
    return min(_LONGEST_RETRY_AFTER, max(0.0, at - time.time()))

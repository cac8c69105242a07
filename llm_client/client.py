"""One call to an OpenAI-compatible endpoint with its retries; every attempt is recorded.

The HTTP client is aiohttp with a body that is encoded once, because a labelling job is bound by the CPU of the client:
the OpenAI SDK takes 2.4 ms and more of it per call. All decisions about retries are made here: a 4xx is final; 408,
409, 429, 5xx, broken connections, time-outs and answers that the server broke off are retried after the server's
Retry-After or after exponential back-off; an answer cut by the token limit or withheld is an error; an answer that
cannot be parsed is sent back once, without context, to be repaired.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from llm_client.attempt import Attempt, AttemptRecorder, Outcome, Reply
from llm_client.budget import SpendLimiter
from llm_client.completion import NotACompletionError, Usage, parse_completion
from llm_client.connection import authorization, proxy_for, tell_missing_key
from llm_client.prices import Price, needed_price, price_of
from llm_client.rate_limits import AdaptiveConcurrency, TokenBucket
from llm_client.request import Request
from llm_client.retry_after import retry_after
from task.errors import cause_of
from task.settings import OpenAI

_LONGEST_PAUSE = 30.0
_ERROR_CHARS = 500


@dataclass(frozen=True, slots=True)
class Try:
    """The outcome of one call: its attempt, the seconds before a retry (None: final), the HTTP status of a refusal."""

    attempt: Attempt
    wait: float | None
    status: int = 0


def open_session(settings: OpenAI, **headers: str) -> aiohttp.ClientSession:
    """An HTTP session with the endpoint's key, proxy and time-out; a context manager.

    A pseudo-address (`vllm:…`) stands for an engine on this machine, which is asked directly.
    """
    if settings.base_url.startswith("http"):
        tell_missing_key(settings)
    return aiohttp.ClientSession(
        headers={**headers, **authorization(settings.api_key_env)},
        timeout=aiohttp.ClientTimeout(total=settings.timeout_s),
        connector=aiohttp.TCPConnector(limit=settings.concurrency, ttl_dns_cache=300),
        proxy=proxy_for(settings.base_url) if settings.base_url.startswith("http") else None,
    )


def is_retried(status: int) -> bool:
    """Whether a request that was answered with an HTTP status is sent again."""
    return status in {408, 409, 429} or status >= 500


class Client:
    """Makes calls. An attempt is recorded before its reply is returned, so a paid reply is never lost.

    Args:
        session: From `open_session`.
        settings: Of the endpoint.
        recorder: Stores the attempts.
        parseable: Whether an answer can be parsed, from the purpose of its request and its text.
        limiter: Enforces the budget.
        backend: Name that attempts are recorded under.
        address: Returns the base URL where it is not the one of `settings`; called once, in a thread, before the
            first call.
    """

    def __init__(
        self, session: aiohttp.ClientSession, settings: OpenAI, recorder: AttemptRecorder, *,
        parseable: Callable[[str, str], bool], limiter: SpendLimiter, backend: str = "openai",
        address: Callable[[], str] | None = None,
    ) -> None:
        self._session = session
        self._settings = settings
        self._recorder = recorder
        self._parseable = parseable
        self._backend = backend
        self.price: Price | None = needed_price(settings) if settings.budget else price_of(settings)
        self._limiter = limiter
        self._concurrency = AdaptiveConcurrency(settings.concurrency)
        self._requests = TokenBucket(settings.requests_per_minute)
        self._tokens = TokenBucket(settings.tokens_per_minute)
        self._address = address or (lambda: settings.base_url)
        self._url: asyncio.Future[str] | None = None
        self._in_flight: set[asyncio.Task[Try]] = set()

    async def ask(self, request: Request, repair: Callable[[str], Request] | None = None) -> Reply | None:
        """The reply to a request, complete or cut by the token limit; None if every try failed.

        Args:
            repair: Makes the request that has an unparseable answer repaired; sent at most once.

        Raises:
            BudgetSpentError: The call could exceed the budget; nothing was sent.
        """
        found = await self._with_retries(request)
        if found.outcome == "invalid" and repair is not None and found.reply is not None:
            found = await self._with_retries(replace(repair(found.reply), key=request.key))
        if found.outcome not in {"ok", "truncated"}:
            return None
        return Reply(found.reply or "", found.details, cut=found.outcome == "truncated")

    async def _with_retries(self, request: Request) -> Attempt:
        deadline = time.monotonic() + self._settings.deadline_s
        number = 0
        while True:
            number += 1
            tried = await self._call(request)
            pause = None if tried.wait is None else max(tried.wait, _backoff(number))
            last = number >= self._settings.max_attempts
            if pause is None or last or time.monotonic() + pause > deadline:
                return tried.attempt
            await asyncio.sleep(pause)

    async def finish(self, say: Callable[[int], None] = lambda _: None) -> None:
        """Wait for the calls in flight whose callers were cancelled, and for their records: they are paid.

        No longer than an attempt may take, since none of them is tried again.

        Args:
            say: Called with their number, if there are any.
        """
        if self._in_flight:
            say(len(self._in_flight))
            await asyncio.gather(*self._in_flight, return_exceptions=True)

    async def _call(self, request: Request) -> Try:
        """One call within all limits; on return its attempt is recorded.

        Until it is sent it can be cancelled; then it goes on without its caller, for `finish`.
        """
        prompt, completion = request.most_tokens
        max_cost = self.price.of(prompt=prompt, completion=completion) if self.price else 0.0
        estimate = prompt / 4 + completion
        await self._limiter.reserve(max_cost)
        entered = None
        try:
            entered = await self._concurrency.enter()
            wait = max(self._requests.take(1.0), self._tokens.take(estimate))
            if wait:
                await asyncio.sleep(wait)
            url = await self._endpoint()
        except BaseException:
            self._limiter.charge(reserved=max_cost, cost=0.0)
            if entered is not None:
                self._concurrency.leave(entered, refused=False)
            raise
        call = asyncio.create_task(self._sent(request, url, entered, reserved=max_cost, estimate=estimate))
        self._in_flight.add(call)
        call.add_done_callback(self._in_flight.discard)
        return await asyncio.shield(call)

    async def _sent(self, request: Request, url: str, entered: float, *, reserved: float, estimate: float) -> Try:
        """Send, and settle and record what came back.

        The concurrency slot is released before that is recorded, so that disk writes do not delay the next call.
        """
        cost, refused = 0.0, False
        try:
            tried = await self._send(request, url)
            refused = tried.status == 429
            a = tried.attempt
            self._tokens.give_back(estimate - a.prompt_tokens - a.completion_tokens)
            cost = a.cost
        finally:
            self._limiter.charge(reserved=reserved, cost=cost)
            self._concurrency.leave(entered, refused=refused)
        await self._recorder.record([a])
        return tried

    async def _endpoint(self) -> str:
        if self._url is None:  # the first caller looks it up, all others wait for the same result
            self._url = asyncio.ensure_future(asyncio.to_thread(self._address))
        return (await asyncio.shield(self._url)).rstrip("/") + "/chat/completions"

    async def _send(self, request: Request, url: str) -> Try:
        started = time.monotonic()

        def attempt(outcome: Outcome, error: str | None = None, **more: Any) -> Attempt:
            return Attempt(
                request=request.key, query=request.query, backend=self._backend, model=self._settings.model,
                evidence=request.evidence, error=error, outcome=outcome, purpose=request.purpose,
                latency_s=time.monotonic() - started, **more,
            )

        try:
            async with self._session.post(url, data=request.content) as response:
                raw = await response.read()
                if response.status != 200:
                    wait = retry_after(response.headers) if is_retried(response.status) else None
                    text = raw[:_ERROR_CHARS].decode(errors="replace")
                    moved = f" after a redirect to {response.url}" if response.history else ""
                    return Try(attempt("error", f"HTTP {response.status}{moved}: {text}"), wait, response.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            return Try(attempt("error", cause_of(error)), 0.0)
        return read_completion(raw, attempt, request=request, parseable=self._parseable, price=self.price)


def read_completion(
    raw: bytes, attempt: Callable[..., Attempt], *, request: Request, parseable: Callable[[str, str], bool],
    price: Price | None,
) -> Try:
    """The body of a chat completion as an attempt.

    Args:
        attempt: Makes it from the outcome, the error and what the body holds.
    """
    try:
        answers, usage = parse_completion(raw)
    except NotACompletionError as error:
        final = error.status and not is_retried(error.status)
        return Try(attempt("error", str(error)), None if final else 0.0, error.status)
    paid = {
        "prompt_tokens": usage.prompt, "cached_tokens": usage.cached, "completion_tokens": usage.completion,
        "cost": _cost(usage, request, price),
    }
    main = next((a for a in answers if a.ending == "complete" and a.text is not None), answers[0])
    details: dict[str, Any] = {}
    if len(answers) > 1:
        usable = [a for a in answers if a.ending == "complete" and a.text is not None and a is not main]
        details["samples"] = [a.text for a in usable]
    if main.logprobs:
        details["logprobs"] = main.logprobs
    if main.source != "content":
        details["source"] = main.source
    said: dict[str, Any] = {"reply": main.text, "details": details, **paid}
    if main.ending == "withheld":
        details["withheld"] = main.problem
    if main.ending in {"cut", "withheld"}:
        return Try(attempt("truncated", main.problem, **said | {"reply": main.text or ""}), None)
    if main.ending == "broken":
        return Try(attempt("error", main.problem, **said), 0.0)
    if main.text is None:
        return Try(attempt("error", main.problem, **said), None)
    if not parseable(request.purpose, main.text):
        return Try(attempt("invalid", "the answer cannot be read", **said), None)
    return Try(attempt("ok", **said), None)


def _cost(usage: Usage, request: Request, price: Price | None) -> float:
    """The cost of a call; where the server does not tell its tokens, the most that it can have cost."""
    if price is None:
        return 0.0
    if not usage.known:
        prompt, completion = request.most_tokens
        return price.of(prompt=prompt, completion=completion)
    return price.of(prompt=usage.prompt, cached=usage.cached, completion=usage.completion)


def _backoff(number: int) -> float:
    """Seconds before retry `number`: exponential, with jitter (Brooker 2015) so that retries are not synchronised."""
    return random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE, 0.5 * 2.0 ** (number - 1))

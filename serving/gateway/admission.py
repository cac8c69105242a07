"""Which requests are answered, and which errors the others get: 401, 429 by rate and concurrency, 503."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.gateway.api_keys import KeyRow, owner
from serving.gateway.http_exchange import Exchange, HttpError
from serving.routing.route import RefusedError


@dataclass(kw_only=True, slots=True)
class Bucket:
    """A token bucket: `rate` tokens a second, at most `burst` saved; times are `time.monotonic()`.

    A request must not wait here, and `Retry-After` needs the seconds until there are enough tokens. aiolimiter offers
    neither a non-blocking attempt nor that time.
    """

    rate: float
    burst: float
    tokens: float
    at: float

    def take(self, wanted: float, *, now: float) -> float:
        """Take tokens and return 0; or take none and return the seconds until there are enough."""
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        need = min(wanted, self.burst)  # a request larger than the bucket needs a full one
        if self.tokens >= need:
            self.tokens -= wanted
            return 0.0
        return (need - self.tokens) / self.rate


@dataclass(slots=True)
class Caller:
    """The owner of a key: its token bucket and its requests in flight."""

    row: KeyRow
    bucket: Bucket
    in_flight: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a caller is refused; `retry_after` is in seconds."""

    status: int
    reason: str
    message: str
    retry_after: float = 0.0


@dataclass(slots=True)
class Callers:
    """All callers of one worker; each of `workers` allows an equal share of every rate.

    If `rows` is None, no key is needed.
    """

    rows: Mapping[str, KeyRow] | None
    workers: int = 1
    known: dict[str, Caller] = field(default_factory=dict)

    def admit(self, presented: str | None) -> Caller | Refusal | None:
        """The caller of a key; None where no key is needed.

        Args:
            presented: The key that came with the request.
        """
        if self.rows is None:
            return None
        row = owner(self.rows, presented)
        if row is None:
            return Refusal(status=401, reason="no key", message="give a valid API key: `Authorization: Bearer lk_…`")
        caller = self.known.get(row.name)
        if caller is None:
            caller = self.known[row.name] = Caller(row, self._bucket(row))
        elif caller.row != row:
            caller.row, caller.bucket = row, self._bucket(row)
        if caller.in_flight >= max(1, row.concurrency // self.workers):
            return Refusal(
                status=429, reason="concurrency", retry_after=1.0,
                message=f"{caller.in_flight} requests of this key are being answered",
            )
        return caller

    def charge(self, caller: Caller, queries: int) -> Refusal | None:
        """Take a token for each query; a refusal where there are not enough."""
        wait = caller.bucket.take(queries, now=time.monotonic())
        if not wait:
            return None
        return Refusal(
            status=429, reason="rate", retry_after=wait,
            message=f"over the rate of this key, {caller.row.rate:g} queries/s",
        )

    def _bucket(self, row: KeyRow) -> Bucket:
        share = 1.0 / self.workers
        burst = row.burst * share
        return Bucket(rate=row.rate * share, burst=burst, tokens=burst, at=time.monotonic())


@dataclass(slots=True)
class Admission:
    """An admitted request; a context manager that counts it among its caller's requests in flight."""

    callers: Callers
    caller: Caller | None
    exchange: Exchange

    def charge(self, queries: int) -> None:
        """Charge the caller's rate for queries; raises `HttpError` (429) where it is exceeded."""
        if self.caller is not None:
            refusal = self.callers.charge(self.caller, queries)
            if refusal is not None:
                raise _key_error(self.exchange, refusal)

    def __enter__(self) -> Admission:
        if self.caller is not None:
            self.caller.in_flight += 1
        return self

    def __exit__(self, *_: object) -> None:
        if self.caller is not None:
            self.caller.in_flight -= 1


def admit(callers: Callers, exchange: Exchange) -> Admission:
    """Check the key of a request; raises `HttpError` (401, 429)."""
    found = callers.admit(exchange.key)
    if isinstance(found, Refusal):
        raise _key_error(exchange, found)
    if found is not None:
        exchange.notes["key"] = found.row.name
    return Admission(callers, found, exchange)


def unavailable(exchange: Exchange, error: Exception) -> HttpError:
    """503 for an error of a route: the student is not available, or not in time."""
    if isinstance(error, RefusedError):
        exchange.notes["refused"] = error.reason
        return HttpError(503, kind="overloaded_error", message=str(error), retry_after=error.retry_after)
    if isinstance(error, TimeoutError):
        exchange.notes["refused"] = "deadline"
        return HttpError(503, kind="overloaded_error", message="not answered by the deadline", retry_after=1.0)
    exchange.notes |= {"refused": "engine", "engine": str(error)[:300]}
    return HttpError(503, kind="overloaded_error", message="the student is not available", retry_after=1.0)


def _key_error(exchange: Exchange, refusal: Refusal) -> HttpError:
    exchange.notes["refused"] = refusal.reason
    kind = "authentication_error" if refusal.status == 401 else "rate_limit_error"
    headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
    return HttpError(
        refusal.status, kind=kind, message=refusal.message, headers=headers,
        retry_after=refusal.retry_after if refusal.status == 429 else None,
    )

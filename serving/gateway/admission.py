"""Which requests are answered, and the errors that the others get: API keys, limits, an engine that is down."""

from __future__ import annotations

from dataclasses import dataclass

from serving.gateway.api_keys import Caller, Callers, Refusal
from serving.gateway.http_exchange import Exchange, HttpError
from serving.routing.route import RefusedError


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

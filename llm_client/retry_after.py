"""How long a server asks to wait before a request is sent again, in every form that providers use."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime

LONGEST = 300.0
"""The longest wait in seconds; a server that asks for more is asked again after this."""

_UNREADABLE = 1.0
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_EPOCH = 1e9  # a number from here on is a time, not a duration
_EPOCH_MS = 1e11


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait, between 0 and `LONGEST`; 0 if the server says nothing.

    Read are, in this order: `retry-after-ms`; `Retry-After`, which is seconds, a duration such as `6m0s`, or a date;
    the `x-ratelimit-reset…` headers of the limits that are used up, which hold durations, times or dates.

    Args:
        headers: Of the response; names in any case if the mapping allows that.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return _within(milliseconds / 1_000)
    given = headers.get("Retry-After", "").strip()
    if given:
        found = _wait(given)
        return _UNREADABLE if found is None else _within(found)
    waits = [
        wait for kind in ("-requests", "-tokens", "")
        if (wait := _wait(headers.get(f"x-ratelimit-reset{kind}", ""))) is not None
        and (left := _number(headers.get(f"x-ratelimit-remaining{kind}", "0"))) is not None and left <= 0
    ]
    return _within(max(waits, default=0.0))


def _wait(value: str) -> float | None:
    """Seconds from now; None if the value cannot be read."""
    value = value.strip()
    number = _number(value)
    if number is not None:
        if number >= _EPOCH_MS:
            number /= 1_000
        return number - time.time() if number >= _EPOCH else number
    if _DURATION.fullmatch(value):
        return sum(float(n) * _SECONDS[unit] for n, unit in _PART.findall(value))
    for parse in (email.utils.parsedate_to_datetime, datetime.fromisoformat):
        try:
            at = parse(value)
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            continue
    return None


def _number(value: str) -> float | None:
    try:
        found = float(value)
    except ValueError:
        return None
    return None if math.isnan(found) else found


def _within(seconds: float) -> float:
    return min(LONGEST, max(0.0, seconds))

"""The wait that a server asks for, in every form of it."""

from __future__ import annotations

import email.utils
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llm_client.retry_after import LONGEST, retry_after
from tests.llm_client.fake_api import FakeApi
from tests.teacher.test_label import llm_task, queries, run

RESET, LEFT = "x-ratelimit-reset", "x-ratelimit-remaining"


@pytest.mark.parametrize(("headers", "seconds"), [
    ({}, 0.0), ({"Retry-After": ""}, 0.0), ({"Retry-After": "7"}, 7.0), ({"Retry-After": " 0.25 "}, 0.25),
    ({"Retry-After": "0"}, 0.0), ({"Retry-After": "-5"}, 0.0), ({"Retry-After": "86400"}, LONGEST),
    ({"Retry-After": "1e400"}, LONGEST), ({"Retry-After": "nan"}, 1.0), ({"Retry-After": "soon"}, 1.0),
    ({"Retry-After": "6m0s"}, LONGEST), ({"Retry-After": "500ms"}, 0.5), ({"Retry-After": "1m2.5s"}, 62.5),
    ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, LONGEST),
    ({"retry-after-ms": "1500"}, 1.5), ({"retry-after-ms": "1500", "Retry-After": "9"}, 1.5),
    ({"retry-after-ms": "-1", "Retry-After": "9"}, 0.0), ({"retry-after-ms": "soon", "Retry-After": "9"}, 9.0),
    ({f"{RESET}-requests": "1s", f"{LEFT}-requests": "0", f"{RESET}-tokens": "9s", f"{LEFT}-tokens": "120"}, 1.0),
    ({f"{RESET}-requests": "20ms", f"{LEFT}-requests": "0", f"{RESET}-tokens": "2m3s", f"{LEFT}-tokens": "0"}, 123.0),
    ({f"{RESET}-requests": "8.64s"}, 8.64), ({f"{RESET}-tokens": "whenever"}, 0.0),
    ({f"{RESET}-requests": "9s", "Retry-After": "2"}, 2.0),
])
def test_the_wait_is_read_and_never_longer_than_the_longest(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers) == pytest.approx(seconds)


@pytest.mark.parametrize("form", ["http", "zoneless", "iso", "epoch", "epoch in milliseconds"])
def test_a_time_is_a_wait_from_now(form: str) -> None:
    at = datetime.now(UTC) + timedelta(seconds=40)
    value = {
        "http": email.utils.format_datetime(at, usegmt=True),
        "zoneless": at.strftime("%a, %d %b %Y %H:%M:%S -0000"),
        "iso": at.isoformat(),
        "epoch": str(int(at.timestamp())),
        "epoch in milliseconds": str(int(at.timestamp() * 1_000)),
    }[form]
    assert retry_after({"Retry-After": value}) == pytest.approx(40.0, abs=2.5)
    assert retry_after({RESET: value}) == pytest.approx(40.0, abs=2.5)


@pytest.mark.parametrize("headers", [
    {"retry-after-ms": "700", "Retry-After": "30"}, {"Retry-After": "700ms"}, {"x-ratelimit-reset-requests": "700ms"},
])
def test_the_client_waits_as_long_as_the_server_asks(headers: dict[str, str], tmp_path: Path) -> None:
    with FakeApi(lambda query, nth: "429" if nth == 1 else "ok") as api:
        api.slow_down = headers
        started = time.monotonic()
        done = run(llm_task(api.url, timeout_s=9.0), queries(1), tmp_path)
        waited = time.monotonic() - started
    assert [r.status for r in done.rows] == ["accepted"]
    assert 0.7 <= waited < 20.0

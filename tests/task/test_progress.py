"""Polling of work that other processes do."""

from __future__ import annotations

import threading

import pytest

from task.progress import looking


def test_it_looks_while_work_goes_on_and_once_more_when_it_has_failed() -> None:
    seen: list[int] = []
    often = threading.Event()

    def look() -> None:
        seen.append(len(seen))
        if len(seen) >= 3:
            often.set()

    def work() -> None:
        with looking(look, every_s=0.001):
            assert often.wait(10)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    after = len(seen)
    assert after >= 4
    assert not threading.Event().wait(0.02)
    assert len(seen) == after

"""A stopped labelling job waits for its calls in flight, because they are paid; a second signal does not wait."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from teacher.ledger.ledger import Ledger
from tests.limbeck.stages.shop import write_shop
from tests.limbeck.test_cli import limbeck
from tests.llm_client.fake_api import FakeApi

ROWS, CONCURRENCY = 20, 6
WAITING = re.compile(r"stopping: waiting for (\d+) calls? in flight; Ctrl-C again stops at once")


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.02)


def ignore_interrupts() -> None:
    """As a shell starts a command in the background, and as nohup does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def take_interrupts() -> None:
    """As a shell starts a command in the foreground, also where the tests themselves run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def labelling(
    folder: Path, api: FakeApi, *, background: bool = False
) -> Iterator[tuple[subprocess.Popen[bytes], Path, tuple[str | Path, ...]]]:
    """`limbeck label` with some answers and some calls in flight, its messages, and its arguments."""
    task = write_shop(folder, [f"thing{i} milk" for i in range(ROWS)], api.url, concurrency=CONCURRENCY)
    arguments: tuple[str | Path, ...] = ("label", task, "--runs", folder / "runs")
    said = folder / "said.txt"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "limbeck", *arguments], stdout=output, stderr=output,
            preexec_fn=ignore_interrupts if background else take_interrupts,
        )
    try:
        yield process, said, arguments
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("sign", "background", "code"), [
    (signal.SIGINT, False, 130), (signal.SIGTERM, False, 143), (signal.SIGTERM, True, 143),
], ids=["ctrl-c", "sigterm", "sigterm in the background"])
def test_a_stopped_job_records_what_was_in_flight_and_pays_for_nothing_twice(
    tmp_path: Path, sign: signal.Signals, background: bool, code: int
) -> None:
    with FakeApi() as api:
        api.delay_s = 1.0
        with labelling(tmp_path, api, background=background) as (process, said, arguments):
            until(lambda: sum(api.paid.values()) >= CONCURRENCY and api.in_flight == CONCURRENCY)
            process.send_signal(sign)
            assert process.wait(20) == code, said.read_text()
        text = said.read_text()
        found = WAITING.search(text)
        assert found is not None, text
        assert found[1] == str(CONCURRENCY)
        assert "stopped; run the same command to resume" in text
        asked = sum(api.calls.values())
        assert CONCURRENCY <= asked < ROWS
        (ledger_file,) = (tmp_path / "runs").rglob("ledger.sqlite")
        with Ledger(ledger_file) as ledger:
            assert [a["outcome"] for a in ledger.attempts()] == ["ok"] * asked
        assert sum(api.paid.values()) == asked
        api.delay_s = 0.0
        again = limbeck(*arguments)
    assert again.returncode == 0, again.stderr
    assert f"{ROWS} of {ROWS} queries accepted" in again.stderr
    assert set(api.calls.values()) == set(api.paid.values()) == {1}
    with Ledger(ledger_file) as ledger:
        assert len(list(ledger.attempts())) == sum(api.paid.values()) == ROWS


@pytest.mark.parametrize(("sign", "background", "code"), [
    (signal.SIGINT, False, 130), (signal.SIGTERM, True, 143),
], ids=["ctrl-c", "sigterm in the background"])
def test_a_second_signal_does_not_wait(tmp_path: Path, sign: signal.Signals, background: bool, code: int) -> None:
    with FakeApi(lambda query, nth: "timeout") as api, labelling(tmp_path, api, background=background) as (
        process, said, _
    ):
        until(lambda: api.in_flight)
        process.send_signal(sign)
        until(lambda: WAITING.search(said.read_text()))
        process.send_signal(sign)
        assert process.wait(10) == code, said.read_text()  # an answer takes 30 s

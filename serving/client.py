"""A service for measurements: started in a process of its own for as long as it is needed, and queried over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from engine.interface import EngineError
from engine.loopback import LOOPBACK, free_port, open_url
from engine.process import see_log
from engine.process_guard import die_with_parent
from task.errors import cause_of
from task.labels import Example, Label
from task.python_process import ended, environment, python
from task.validation import FaultKind

_FEWER = 4  # times fewer queries go in a request that asks again
_TRIES = 3  # for a query that is asked alone
_LINES = 3  # of a service's log, in an error
_PAUSE_S = 1.0  # before asking again: what the service says in Retry-After where it knows nothing better
_READY_S = 10.0  # more than the 5 s after which the service itself calls its engine not ready
_START_S = 600.0  # an 8B model takes minutes to load


@contextmanager
def served(
    source: Path, *, state: Path, on_wait: Callable[[float], None] = lambda _: None, options: Sequence[str] = ()
) -> Iterator[str]:
    """A bundle or release pointer served by `limbeck serve` in another process; gives its URL and ends it afterwards.

    Args:
        state: The service's state folder; its output is in `serve.log` there.
        on_wait: Called with the seconds waited until the service is ready.
        options: More options of the command line.

    Raises:
        EngineError: The service did not become ready; or the work with it raised one, to which the last lines of the
            service's output are added.
    """
    port = free_port()
    command = python(
        "-m", "limbeck", "serve", str(source), "--port", str(port), "--admin-port", "0", "--state", str(state), *options
    )
    state.mkdir(parents=True, exist_ok=True)
    log = state / "serve.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=die_with_parent,
            env=environment(),
        )
    try:
        url = f"http://{LOOPBACK}:{port}"
        _wait_ready(process, url, log, on_wait)
        told = log.stat().st_size
        try:
            yield url
        except EngineError as error:  # its state folder is often a temporary one
            since = log.read_bytes()[told:].decode(errors="replace").splitlines()
            raise EngineError("; ".join([str(error), *since[-_LINES:]])) from error
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


class ServedAnswer(NamedTuple):
    """An answer of a service.

    Attributes:
        row: The query with the labels.
        probability: Probability that the labelling is right; None where the service gives none.
        fault: Why the answer is invalid; `rule` where the service does not say. None for a valid one.
    """

    row: Example
    probability: float | None
    fault: FaultKind | None


def label_all(
    url: str, rows: Sequence[Example], *, batch: int, done: Callable[[int], None], timeout_s: float = 120.0
) -> list[Example]:
    """The rows of `answer_all`."""
    return [answer.row for answer in answer_all(url, rows, batch=batch, done=done, timeout_s=timeout_s)]


def answer_all(
    url: str, rows: Sequence[Example], *, batch: int, done: Callable[[int], None], timeout_s: float = 120.0
) -> list[ServedAnswer]:
    """The student's answers to the rows' queries, in order.

    The cache is not used; `batch` queries go in a request. `done` is called with the number of queries answered.
    What is wanted are labels, not their latency: queries that a slow machine does not answer by the service's deadline,
    or whose engine is restarted meanwhile, are asked again once the service is ready, a quarter of them at a time, down
    to one.

    Raises:
        EngineError: The service answered with an error, which is in the message, or not at all; a query had none of
            three tries answered; or the service is not ready any more. Answers to the queries before are lost: a figure
            of a part of the rows would be no figure of the student.
    """
    out: list[ServedAnswer] = []
    for at in range(0, len(rows), batch):
        part = rows[at : at + batch]
        out += _answers(url, part, where=f"after {at:,} of {len(rows):,}", timeout_s=timeout_s)
        done(len(part))
    return out


def _answers(
    url: str, part: Sequence[Example], *, where: str, timeout_s: float, tries: int = _TRIES
) -> list[ServedAnswer]:
    """The answers to one request's queries; those that were late or refused are asked again, fewer at a time."""
    results = _asked(url, part, where=where, timeout_s=timeout_s)
    failed = [row for row, result in zip(part, results, strict=True) if "error" in result]
    left = tries - 1 if len(part) == 1 else tries
    if failed:
        if not left:
            raise EngineError(f"no labels for {failed[0].query!r}: {results[0]['error']['message']}")
        time.sleep(_PAUSE_S)
        _wait_ready_again(url)
    fewer = max(1, len(part) // _FEWER)
    again = iter([
        answer for at in range(0, len(failed), fewer)
        for answer in _answers(url, failed[at : at + fewer], where=where, timeout_s=timeout_s, tries=left)
    ])
    return [
        next(again) if "error" in result else _answer(row, result) for row, result in zip(part, results, strict=True)
    ]


def _asked(url: str, part: Sequence[Example], *, where: str, timeout_s: float) -> list[dict[str, Any]]:
    """The lines of a response, in the order of the queries."""
    body = json.dumps({"queries": [r.query for r in part], "use_cache": False}).encode()
    request = urllib.request.Request(f"{url}/v1/label:batch", body, {"Content-Type": "application/json"})
    try:
        with open_url(request, timeout_s=timeout_s) as response:
            results = sorted(map(json.loads, response), key=lambda x: int(x["index"]))
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")[:500]
        raise EngineError(f"the service answered {error.code} to {len(part)} queries: {text}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise EngineError(f"the service did not answer {len(part)} queries {where}: {cause_of(error)}") from error
    if len(results) < len(part):
        raise EngineError(f"the service answered {len(results)} of {len(part)} queries and ended the answer")
    return results


def _answer(row: Example, result: Mapping[str, Any]) -> ServedAnswer:
    labels = tuple(Label.from_json(x) for x in result["labels"])
    fault: FaultKind | None = result.get("fault", "rule") if result["status"] == "invalid" else None
    return ServedAnswer(replace(row, labels=labels), result["probability"], fault)


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path, on_wait: Callable[[float], None]) -> None:
    started = time.monotonic()
    while True:
        waited = time.monotonic() - started
        on_wait(waited)
        code = process.poll()
        if code is not None or waited > _START_S:
            how = f"it did not answer within {_START_S:.0f} s" if code is None else f"it {ended(code)}"
            raise EngineError(f"the service did not start: {how}; {see_log(log)}")
        if _is_ready(url):
            return
        time.sleep(0.5)


def _wait_ready_again(url: str) -> None:
    """Wait until a service that has answered before is ready: its engine may just be restarted."""
    until = time.monotonic() + _START_S
    while not _is_ready(url):
        if time.monotonic() > until:
            raise EngineError(f"the service at {url} was ready, and has not been for {_START_S:.0f} s")
        time.sleep(0.5)


def _is_ready(url: str) -> bool:
    """Whether the service's engine answers; while it does not, a service that was ready is `degraded`."""
    try:
        with open_url(f"{url}/readyz", timeout_s=_READY_S) as response:
            return bool(json.load(response)["status"] == "ready")
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException):
        return False

"""Run a service: in this process until a signal, or beside it for as long as it is needed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from engine.process import LOOPBACK, EngineError, die_with_parent, free_port
from task.errors import InputError
from task.labels import Example, Label
from task.serving_settings import Serving


def serve(source: Path, state: Path, override: Callable[[Serving], Serving]) -> None:
    """Serve a bundle, or what a release pointer points to, until a signal; blocks.

    Raises:
        InputError: Nothing fit to be served, or the port is taken; found out before the engine is started.
        EngineError: The engine did not start.
    """
    from serving.supervisor.admin import listen
    from serving.supervisor.supervisor import Supervisor
    from serving.telemetry.traces import Traces

    async def run() -> None:
        supervisor = Supervisor(source, state, override)
        settings = supervisor.settings
        if settings.traces:
            Traces(settings.traces).close()  # here, not in every worker, is where somebody reads what is missing
        with _bound(settings.host, settings.port) as listener:
            if settings.admin_port:
                with _bound(LOOPBACK, settings.admin_port, field="serving.admin_port"):
                    pass
            address = "http://{}:{}".format(*listener.getsockname()[:2])
            _tell(f"starting vLLM; its log, all others and status.json are in {state}")
            await supervisor.run(
                listener,
                lambda s: listen(s, settings.admin_port, lambda port: _tell(f"operators: http://{LOOPBACK}:{port}/status")),
                lambda: _tell(f"ready: POST {address}/v1/label, described in {address}/openapi.json"),
            )

    asyncio.run(run())


@contextmanager
def served(
    bundle: Path, state: Path, on_wait: Callable[[float], None] = lambda _: None, options: Sequence[str] = ()
) -> Iterator[str]:
    """A bundle served by `limbeck serve` in a process of its own; gives its URL and ends it afterwards.

    Args:
        state: The folder of its logs; `serve.log` is what it printed.
        options: More of the command line.
    """
    port = free_port()
    command = [
        sys.executable, "-m", "limbeck", "serve", str(bundle), "--port", str(port), "--admin-port", "0", "--state",
        str(state), *options,
    ]
    state.mkdir(parents=True, exist_ok=True)
    log = state / "serve.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=die_with_parent
        )
    try:
        url = f"http://{LOOPBACK}:{port}"
        _wait_ready(process, url, log, on_wait)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def label_all(
    url: str, rows: Sequence[Example], *, batch: int, done: Callable[[int], None], timeout_s: float = 120.0
) -> list[Example]:
    """`answer_all` without the probabilities."""
    return [row for row, _ in answer_all(url, rows, batch=batch, done=done, timeout_s=timeout_s)]


def answer_all(
    url: str, rows: Sequence[Example], *, batch: int, done: Callable[[int], None], timeout_s: float = 120.0
) -> list[tuple[Example, float | None]]:
    """Rows with the student's labels for their queries, and the probability that each labelling is right.

    The cache is passed by; `batch` queries go in a request.

    Raises:
        EngineError: The service answered with an error, which is in the message.
    """
    out: list[tuple[Example, float | None]] = []
    for at in range(0, len(rows), batch):
        part = rows[at : at + batch]
        body = json.dumps({"queries": [r.query for r in part], "use_cache": False}).encode()
        request = urllib.request.Request(f"{url}/v1/label:batch", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                results = sorted(map(json.loads, response), key=lambda x: int(x["index"]))
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:500]
            raise EngineError(f"the service answered {error.code} to {len(part)} queries: {said}") from error
        for row, result in zip(part, results, strict=True):
            if "error" in result:
                raise EngineError(f"no labels for {row.query!r}: {result['error']['message']}")
            labels = tuple(Label.from_json(x) for x in result["labels"])
            out.append((replace(row, labels=labels), result["probability"]))
        done(len(part))
    return out


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path, on_wait: Callable[[float], None]) -> None:
    started = time.monotonic()
    while True:
        waited = time.monotonic() - started
        on_wait(waited)
        if process.poll() is not None or waited > 600:
            raise EngineError(f"the service did not start; see {log}\n{log.read_text(errors='replace')[-2000:]}")
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)


@contextmanager
def _bound(host: str, port: int, field: str = "--port") -> Iterator[socket.socket]:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        try:
            listener.bind((host, port))
            listener.listen(2048)
        except OSError as error:
            raise InputError(
                f"cannot listen on {host}:{port}: {error.strerror or error}", field=field, found=port,
                fix="Choose a free port, or stop the process that holds this one",
            ) from error
        yield listener
    finally:
        listener.close()


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

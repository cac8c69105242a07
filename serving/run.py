"""Run a bundle: engine and gateway together, and both gone when either is."""

from __future__ import annotations

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

from serving.bundle import Bundle
from serving.engine import LOOPBACK, Engine, EngineError, die_with_parent, free_port
from task.errors import InputError
from task.labels import Example, Label


def serve(bundle: Bundle, host: str, port: int, log: Path) -> None:
    """Serve until a signal; blocks.

    Raises:
        InputError: The port is taken; found out before the engine is started.
        EngineError: The engine did not start.
    """
    import uvicorn

    from serving.gateway import make_app

    settings = bundle.task.serving
    with (
        _bound(host, port) as listener,
        Engine(bundle.model, bundle.model_name, bundle.codec.form, settings, log) as engine,
    ):
        _tell(f"bundle {bundle.id}: starting vLLM for {bundle.model_name} (log: {log})")
        engine.wait_ready()
        address = "http://{}:{}".format(*listener.getsockname()[:2])
        _tell(f"ready: POST {address}/v1/label, documentation at {address}/docs")
        config = uvicorn.Config(make_app(bundle, engine.url), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def served(bundle: Path, log: Path, on_wait: Callable[[float], None] = lambda _: None) -> Iterator[str]:
    """A bundle served by `limbeck serve` in a process of its own; gives its URL and ends it afterwards."""
    port = free_port()
    command = [sys.executable, "-m", "limbeck", "serve", str(bundle), "--port", str(port), "--log", str(log)]
    with log.with_suffix(".gateway.log").open("ab") as output:
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
    """Rows with the student's labels for their queries, the cache passed by; `batch` queries a request.

    Raises:
        EngineError: The service answered with an error, which is in the message.
    """
    out: list[Example] = []
    for at in range(0, len(rows), batch):
        part = rows[at : at + batch]
        body = json.dumps({"queries": [r.query for r in part], "use_cache": False}).encode()
        request = urllib.request.Request(f"{url}/v1/label", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                results = json.load(response)["results"]
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:500]
            raise EngineError(f"the service answered {error.code} to {len(part)} queries: {said}") from error
        for row, result in zip(part, results, strict=True):
            out.append(replace(row, labels=tuple(Label.from_json(x) for x in result["labels"])))
        done(len(part))
    return out


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path, on_wait: Callable[[float], None]) -> None:
    started = time.monotonic()
    while True:
        waited = time.monotonic() - started
        on_wait(waited)
        if process.poll() is not None or waited > 600:
            tail = log.with_suffix(".gateway.log").read_text(errors="replace")[-2000:]
            raise EngineError(f"the service did not start; see {log}\n{tail}")
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        try:
            listener.bind((host, port))
            listener.listen(2048)
        except OSError as error:
            raise InputError(
                f"cannot listen on {host}:{port}: {error.strerror or error}", field="--port", found=port,
                fix="Choose a free port with --port, or stop the process that holds this one",
            ) from error
        yield listener
    finally:
        listener.close()


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

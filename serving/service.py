"""Run a service in this process until a signal."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.loopback import LOOPBACK
from serving.supervisor.admin import listen
from serving.supervisor.supervisor import Supervisor
from serving.telemetry.traces import Traces
from task.errors import InputError
from task.serving_settings import Serving


def serve(source: Path, *, state: Path, override: Callable[[Serving], Serving]) -> None:
    """Serve a bundle, or what a release pointer points to, until a signal; blocks.

    Raises:
        InputError: Nothing fit to be served, or the port is taken; raised before the engine is started.
        EngineError: The engine did not start.
    """

    async def run() -> None:
        supervisor = Supervisor(source, state=state, override=override)
        settings = supervisor.settings
        if settings.traces:
            Traces(settings.traces).close()  # fails here, where the operator sees it, rather than in every worker
        with _listening(settings.host, settings.port) as listener:
            if settings.admin_port:
                with _listening(LOOPBACK, settings.admin_port, field="--admin-port or serving.admin_port"):
                    pass
            address = "http://{}:{}".format(*listener.getsockname()[:2])
            _print(f"starting the engine; its log, all others and status.json are in {state}")
            await supervisor.run(
                listener,
                admin=lambda s: listen(
                    s, settings.admin_port,
                    on_port=lambda port: _print(f"operators: http://{LOOPBACK}:{port}/status"),
                ),
                on_ready=lambda: _print(f"ready: POST {address}/v1/label, described in {address}/openapi.json"),
            )

    asyncio.run(run())


@contextmanager
def _listening(host: str, port: int, *, field: str = "--port") -> Iterator[socket.socket]:
    """A listening socket; raises `InputError` where the port is taken."""
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


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

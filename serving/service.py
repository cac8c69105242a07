"""Run a service in this process until a signal."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from engine.loopback import LOOPBACK
from serving.gateway.uvicorn_server import listening
from serving.supervisor.admin import listen
from serving.supervisor.supervisor import Supervisor
from serving.telemetry.traces import Traces
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
        with listening(settings.host, settings.port) as listener:
            if settings.admin_port:
                with listening(LOOPBACK, settings.admin_port, field="--admin-port or serving.admin_port"):
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


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

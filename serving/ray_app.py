"""The service on a Ray cluster: gateways and engines as Ray Serve deployments that scale with the load.

    serve run serving.ray_app:build bundle=/models/market/bundle      # or a config file: deploy/ray-serve.yaml

A gateway replica is the gateway of `limbeck serve`: caches, limits, routes. An engine replica is one engine with the
bundle's student. Ray starts both, replaces those that die or fail their health check, and adds engines while more than
`waiting_per_engine` queries are in flight for each. The bundle must be at the same path on every node.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import model_validator
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from engine.interface import EngineUnavailableError
from engine.kind import engine_kind
from engine.startup import start_checked_engine
from serving.gateway.admission import Callers
from serving.gateway.api_keys import read_keys
from serving.gateway.app import Gateway
from serving.release.bundle import Bundle, open_bundle
from serving.release.head_cache import HeadCache
from serving.release.startup_queries import startup_queries
from serving.routing.route import Route
from serving.routing.task_routes import Choice, Routes
from serving.telemetry.metrics import Metrics
from task.forms import Decoded
from task.settings import Positive, Strict
from task.tokenizer import load_tokenizer

_HEALTH_S = 2.0
_LOG = logging.getLogger("ray.serve")  # the one that Ray Serve writes to a replica's log file


class Between(Strict):
    """The least and the most replicas."""

    least: Positive = 1
    most: Positive = 1

    @model_validator(mode="after")
    def _ordered(self) -> Between:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) is more than most ({self.most})")
        return self


class Cluster(Strict):
    """Arguments of the application.

    Attributes:
        bundle: A bundle folder that every node can read.
        waiting_per_engine: Queries in flight for each engine above which another one is started.
        engine_cpus: Cores that Ray reserves for an engine; `engine_gpus` likewise.
        grow_after_s: How long there must be more before one is added; `shrink_after_s`: fewer, before one is removed.
    """

    bundle: Path
    gateways: Between = Between()
    engines: Between = Between()
    waiting_per_engine: Positive = 32
    engine_cpus: float = 1.0
    engine_gpus: float = 0.0
    grow_after_s: float = 10.0
    shrink_after_s: float = 300.0


class EngineReplica:
    """One engine; ends with its replica."""

    def __init__(self, folder: str) -> None:
        bundle = open_bundle(Path(folder))
        self._hang_s = bundle.task.serving.hang_s
        log = Path(tempfile.gettempdir()) / f"limbeck-engine-{os.getpid()}.log"
        self._engine = start_checked_engine(bundle, startup_queries(bundle), log)
        self._client = engine_kind(bundle, bundle.task.serving).connect(
            bundle, self._engine.url, load_tokenizer(bundle.model)
        )

    async def label(self, queries: Sequence[str]) -> list[Decoded]:
        """Labels of queries; raises `EngineUnavailableError`."""
        return await self._client.label(queries)

    async def check_health(self) -> None:
        """Raise where the engine has ended or hangs: Ray then starts another replica."""
        if not self._engine.alive:
            raise RuntimeError(f"the engine {self._engine.ended}")
        async with asyncio.timeout(self._hang_s):
            await self._client.label(["ready"])

    def pids(self) -> tuple[int, int]:
        """Process ids of replica and engine."""
        return os.getpid(), self._engine.pid

    def __del__(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.kill()


class EngineHandle:
    """A `StudentClient` that asks the engine replica that Ray chooses."""

    def __init__(self, handle: DeploymentHandle[EngineReplica], bundle: Bundle) -> None:
        self._handle: Any = handle
        self._codec, self._tokenizer = bundle.codec, load_tokenizer(bundle.model)

    async def label(self, queries: Sequence[str]) -> list[Decoded]:
        """Labels of queries; raises `EngineUnavailableError` where no replica answers."""
        try:
            return list(await self._handle.label.remote(list(queries)))
        except (RayError, BackPressureError) as error:  # the replica died, or raised an error
            raise EngineUnavailableError(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error

    def prompt_tokens(self, query: str) -> int:
        """How many tokens the student reads for a query."""
        return len(self._codec.prompt(query, self._tokenizer).ids)

    async def close(self) -> None:
        """Nothing to close."""


@serve.ingress()
class GatewayReplica:
    """The gateway, which reaches its engines through a Ray Serve handle."""

    def __init__(self, folder: str, engines: DeploymentHandle[EngineReplica]) -> None:
        niceness = os.getpriority(os.PRIO_PROCESS, 0)
        if niceness > 0:
            _LOG.warning(
                "Ray runs this gateway at niceness %d, below all other processes of the node: requests may wait for "
                "seconds. Set RAY_worker_niceness=0 in the environment in which Ray is started.", niceness,
            )
        bundle = open_bundle(Path(folder))
        settings = bundle.task.serving
        callers = Callers(None if settings.keys is None else read_keys(settings.keys))
        metrics = Metrics()
        route = Route(
            bundle, HeadCache(bundle.folder / "cache"), EngineHandle(engines, bundle), settings,
            on_invalid=lambda kind: metrics.count(metrics.invalid, bundle.id, kind),
        )
        self._gateway = Gateway(Routes({bundle.task.name: Choice(route)}), settings, callers=callers, metrics=metrics)

    def __serve_build_asgi_app__(self) -> Gateway:
        """What Ray Serve's proxy sends requests to."""
        return self._gateway


def build(cluster: Cluster) -> serve.Application:
    """The application, for `serve run` and for config files."""
    bundle = open_bundle(cluster.bundle)  # fails here rather than in a replica, which Ray would restart again and again
    settings = bundle.task.serving
    engines: Any = serve.deployment(
        name="engine", ray_actor_options={"num_cpus": cluster.engine_cpus, "num_gpus": cluster.engine_gpus},
        max_ongoing_requests=settings.max_num_seqs, max_queued_requests=settings.max_waiting,
        health_check_period_s=_HEALTH_S, health_check_timeout_s=settings.hang_s + _HEALTH_S,
        graceful_shutdown_timeout_s=settings.request_timeout_s,
        autoscaling_config={
            "min_replicas": cluster.engines.least, "max_replicas": cluster.engines.most,
            "target_ongoing_requests": cluster.waiting_per_engine, "upscale_delay_s": cluster.grow_after_s,
            "downscale_delay_s": cluster.shrink_after_s,
        },
    )(EngineReplica)
    gateways: Any = serve.deployment(
        name="gateway", ray_actor_options={"num_cpus": 0.5}, max_ongoing_requests=settings.max_waiting,
        autoscaling_config={
            "min_replicas": cluster.gateways.least, "max_replicas": cluster.gateways.most,
            "target_ongoing_requests": max(1, settings.max_waiting // 4),
        },
    )(GatewayReplica)
    folder = str(cluster.bundle.resolve())
    app: serve.Application = gateways.bind(folder, engines.bind(folder))
    return app

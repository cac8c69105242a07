"""Keeps one engine running: starts it, warms it up, watches it, and restarts it when it dies or hangs.

Models with the same weights share the engine; each may bring an adapter, which is loaded while the engine runs and
loaded again after each restart. Before clients may ask a model, it is checked against the trained student
(`engine.startup`).

An engine hangs when queries wait, and for `serving.hang_s` none is answered and nothing more is computed: a long queue
alone is no fault, nor are large requests on a processor that other programs use as well.
While no client asks, the watchdog sends a query every two minutes; not more often, because vLLM spins for a second
after every request.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from engine.interface import Engine, EngineError, EngineUnavailableError, StudentClient
from engine.kind import engine_kind
from engine.loopback import LOOPBACK, free_port
from engine.progress import ProgressCheck
from engine.servable import Servable, StartupQueries
from engine.startup import TIMEOUT_S, start_engine, warm_up_and_check
from task.serving_settings import Serving
from task.tokenizer import FastTokenizer, load_tokenizer

State = Literal["starting", "ready", "restarting", "failed", "stopped"]
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 30.0  # before a restart; each failure soon after the last doubles the pause
STABLE_AFTER_S = 60.0  # after running for so long the pause is reset
_IDLE_PROBE_S = 120.0


@dataclass(eq=False, slots=True)
class HostedModel:
    """A servable that an engine hosts.

    Attributes:
        tokenizer: Read early, like the queries, while the files are still as verified: a restart of the engine must not
            depend on later changes of the files.
        ready: Done once the engine has passed the check for it; with `EngineError` if it never can.
        checked_in: The run of the engine in which it last passed the check.
    """

    servable: Servable
    tokenizer: FastTokenizer
    queries: StartupQueries
    ready: asyncio.Future[None]
    checked_in: int = -1


@dataclass(eq=False, kw_only=True, slots=True)
class Watchdog:
    """One engine and the models that it hosts; belongs to one event loop.

    Args:
        settings: Those of the first model, or the operator's overrides.
        log: Of the engine.
        answered: How many answers a servable, by its id, has given so far.
        waiting: How many of its queries wait for an answer.
        report: Called with what happens to it and, as `failed`, whether it is a failure.
    """

    settings: Serving
    log: Path
    answered: Callable[[str], int] = lambda _id: 0
    waiting: Callable[[str], int] = lambda _id: 0
    report: Callable[..., None] = lambda text, **_: print(text, file=sys.stderr, flush=True)
    port: int = field(default_factory=free_port)
    state: State = "starting"
    restarts: int = 0
    last_error: str = ""
    hosted: list[HostedModel] = field(default_factory=list)
    _engine: Engine | None = None
    _run: int = 0

    @property
    def url(self) -> str:
        """Base URL of the engine, the same after each restart."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id of the engine, None while there is none."""
        return self._engine.pid if self._engine is not None and self._engine.alive else None

    def is_checked(self, hosted: HostedModel) -> bool:
        """Whether a model has passed the check since the engine was last started."""
        return self.pid is not None and hosted.checked_in == self._run

    def add(self, servable: Servable, queries: StartupQueries) -> HostedModel:
        """Host a model from now on."""
        hosted = HostedModel(
            servable, load_tokenizer(servable.model), queries, asyncio.get_running_loop().create_future()
        )
        self.hosted.append(hosted)
        return hosted

    def remove(self, hosted: HostedModel) -> None:
        """Host a model no longer; its adapter is unloaded soon."""
        if hosted in self.hosted:
            self.hosted.remove(hosted)

    async def run(self) -> None:
        """Keep the engine running until cancelled; ends by itself only where the engine has never been ready."""
        pause = FIRST_PAUSE_S
        try:
            while True:
                started = time.monotonic()
                try:
                    await self._run_once()
                except (EngineError, OSError) as error:
                    self.last_error = str(error)
                if self.state == "starting":
                    self.state = "failed"
                    self._report(self.last_error.splitlines()[0], failed=True)
                    return
                self.state = "restarting"
                self.restarts += 1
                self._report(self.last_error.splitlines()[0], failed=True)
                if time.monotonic() - started > STABLE_AFTER_S:
                    pause = FIRST_PAUSE_S
                await asyncio.sleep(pause)
                pause = min(MAX_PAUSE_S, 2 * pause)
        finally:
            if self.state != "failed":
                self.state = "stopped"
            for hosted in self.hosted:
                _set_ready(hosted, EngineError(self.last_error or "stopped"))

    async def _run_once(self) -> None:
        """Start the engine and watch it; raises `EngineError` when it has ended or hangs."""
        self._run += 1
        while not engine_kind(self.hosted[0].servable, self.settings).ready_to_start(self.settings, self.log):
            await asyncio.sleep(0.1)
        # Started by this thread: the kernel may end a process when the thread that started it ends.
        engine = self._engine = start_engine(
            self.hosted[0].servable, self.log, settings=self.settings, port=self.port
        )
        try:
            await asyncio.to_thread(engine.wait_ready)
            await self._update_hosted(engine)
            if not any(h.checked_in == self._run for h in self.hosted):
                raise EngineError(self.last_error or "no model is left to host")
            again = self.state == "restarting"
            self.state = "ready"
            if again:
                self._report("answers again")
            await self._watch(engine)
        finally:
            engine.kill()

    async def _update_hosted(self, engine: Engine) -> None:
        """Load the adapters of new models and check them; unload those of models that were removed."""
        for hosted in [h for h in self.hosted if h.checked_in != self._run]:
            servable = hosted.servable
            try:
                if servable.adapter is not None and servable.model_name not in engine.adapters:
                    await asyncio.to_thread(engine.load_adapter, servable.model_name, servable.adapter)
                async with self._client(hosted, max(self.settings.hang_s, TIMEOUT_S)) as client:
                    await warm_up_and_check(client, hosted.queries, min_agreement=self.settings.self_check)
            except (EngineError, EngineUnavailableError) as error:
                self.last_error = f"{servable.model_name}: {error}"
                if hosted.ready.done() or not engine.alive:  # it passed before, so the engine is at fault
                    raise EngineError(self.last_error) from error
                _set_ready(hosted, EngineError(self.last_error))
                self.remove(hosted)
                continue
            hosted.checked_in = self._run
            _set_ready(hosted, None)
        for name in engine.adapters - {h.servable.model_name for h in self.hosted}:
            await asyncio.to_thread(engine.unload_adapter, name)

    async def _watch(self, engine: Engine) -> None:
        """Watch until it fails; raises `EngineError` when the process has ended, or waiting queries get no answers."""
        now = time.monotonic()
        # `waiting_since`: the start of the time in which queries wait and none is answered
        last_answer, waiting_since, answered = now, None, self._sum(self.answered)
        probe: asyncio.Task[bool] | None = None
        computing = ProgressCheck(self.url, timeout_s=self.settings.hang_s)
        try:
            while True:
                await asyncio.sleep(0.2)
                now = time.monotonic()
                if not engine.alive:
                    raise EngineError(f"the engine {engine.ended}")
                progress = self._sum(self.answered)
                if progress != answered or (probe is not None and probe.done() and probe.result()):
                    last_answer, waiting_since, answered = now, None, progress
                if probe is not None and probe.done():
                    probe = None
                if waiting_since is None and (probe is not None or self._sum(self.waiting)):
                    waiting_since = now
                suspect = waiting_since is not None and now - waiting_since > self.settings.hang_s / 2
                if probe is None and self.hosted and (suspect or now - last_answer > _IDLE_PROBE_S):
                    probe = asyncio.create_task(self._probe(self.hosted[0]))
                if computing.rose(suspect=suspect):
                    waiting_since = None  # though no answer is complete
                if waiting_since is not None and now - waiting_since > self.settings.hang_s:
                    waited = f"{self.settings.hang_s:.0f} s"
                    raise EngineError(f"the engine has answered nothing for {waited}; see {self.log}")
                names = {h.servable.model_name for h in self.hosted}
                if engine.adapters - names or any(h.checked_in != self._run for h in self.hosted):
                    await self._update_hosted(engine)
        finally:
            await computing.close()
            if probe is not None:
                probe.cancel()
                await asyncio.gather(probe, return_exceptions=True)

    def _sum(self, count: Callable[[str], int]) -> int:
        return sum(count(h.servable.id) for h in self.hosted)

    @asynccontextmanager
    async def _client(self, hosted: HostedModel, timeout_s: float) -> AsyncIterator[StudentClient]:
        client = engine_kind(hosted.servable, self.settings).connect(
            hosted.servable, self.url, hosted.tokenizer, timeout_s=timeout_s
        )
        try:
            yield client
        finally:
            await client.close()

    async def _probe(self, hosted: HostedModel) -> bool:
        """Whether the engine answers."""
        try:
            async with self._client(hosted, self.settings.hang_s) as client:
                await client.label(["ready"])
        except EngineUnavailableError:
            return False
        return True

    def _report(self, text: str, *, failed: bool = False) -> None:
        self.report(f"engine on port {self.port}: {text}", failed=failed)


def _set_ready(hosted: HostedModel, error: EngineError | None) -> None:
    if hosted.ready.done():
        return
    if error is None:
        hosted.ready.set_result(None)
    else:
        hosted.ready.set_exception(error)
        hosted.ready.exception()  # marked as retrieved: nobody may be waiting for it

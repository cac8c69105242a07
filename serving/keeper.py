"""Keeps one engine running: starts it, warms it up, watches it, and starts it again when it dies or hangs.

An engine hangs when a question of ours goes unanswered for `serving.hang_s` and no worker got an answer either: a full
queue is slow, not broken.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from serving.bundle import Bundle
from serving.cache import HeadCache
from serving.client import EngineUnavailableError, StudentClient
from serving.engine import Engine, EngineError, free_port
from task.service import Serving
from task.tokens import load_tokenizer

State = Literal["starting", "ready", "restarting", "failed", "stopped"]
FIRST_PAUSE_S, LONGEST_PAUSE_S, FORGIVEN_AFTER_S = 1.0, 30.0, 60.0
_WARM_UP = 8


class Keeper:
    """One engine and what has become of it; belongs to one event loop."""

    def __init__(
        self, bundle: Bundle, settings: Serving, log: Path, progress: Callable[[], int] = lambda: 0
    ) -> None:
        """Prepare; `run` starts it.

        Args:
            progress: How many answers of this engine the workers have had so far.
        """
        self.bundle, self.settings, self.log = bundle, settings, log
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.state: State = "starting"
        self.restarts = 0
        self.why = ""
        self.ready = asyncio.Event()  # set once it has been, and never unset
        self._progress = progress
        self._engine: Engine | None = None
        # Read while the bundle is as it was verified: a later life must not depend on what has become of it.
        self._tokenizer = load_tokenizer(bundle.model)
        self._warm_up_queries = _some_of(HeadCache(bundle.folder / "cache"))

    @property
    def pid(self) -> int | None:
        """The engine's process, where there is one."""
        return self._engine.pid if self._engine is not None and self._engine.alive else None

    async def run(self) -> None:
        """Keep it running until cancelled; ends by itself only where it has never been ready."""
        pause = FIRST_PAUSE_S
        try:
            while True:
                started = time.monotonic()
                try:
                    await self._live()
                except (EngineError, OSError) as error:
                    self.why = str(error)
                _tell(f"engine {self.bundle.model_name}: {self.why.splitlines()[0]}")
                if not self.ready.is_set():
                    self.state = "failed"
                    return
                self.state = "restarting"
                self.restarts += 1
                if time.monotonic() - started > FORGIVEN_AFTER_S:
                    pause = FIRST_PAUSE_S
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE_S, 2 * pause)
        finally:
            if self.state != "failed":
                self.state = "stopped"

    async def _live(self) -> None:
        """One life of an engine; raises `EngineError` at its end."""
        client = StudentClient(
            self.url, self.bundle.model_name, self.bundle.task, self.bundle.codec, self._tokenizer, self.settings.hang_s
        )
        # Started by this thread, not a helper's: the kernel ends it when the thread that started it ends.
        engine = self._engine = Engine(
            self.bundle.model, self.bundle.model_name, self.bundle.codec.form, self.settings, self.log, self.port
        )
        try:
            await asyncio.to_thread(engine.wait_ready)
            await self._warm_up(client)
            if self.state == "restarting":
                _tell(f"engine {self.bundle.model_name}: answers again")
            self.state = "ready"
            self.ready.set()
            await self._watch(engine, client)
        finally:
            engine.kill()
            await client.close()

    async def _warm_up(self, client: StudentClient) -> None:
        """The first questions are slow: they are ours, in the lengths that clients will ask."""
        try:
            for query in self._warm_up_queries:
                await client.label([query])
            await client.label(self._warm_up_queries)
        except EngineUnavailableError as error:
            raise EngineError(f"vLLM answered /health, but no question: {error}") from error

    async def _watch(self, engine: Engine, client: StudentClient) -> None:
        """Look whether it lives, and ask it something only where nobody else has had an answer for a while.

        vLLM spins for a second after every question: one that is asked all the time never rests.
        """
        last, answered = time.monotonic(), self._progress()
        probe: asyncio.Task[bool] | None = None
        try:
            while True:
                await asyncio.sleep(0.2)
                if not engine.alive:
                    raise EngineError(f"vLLM ended with code {engine.code}; see {self.log}")
                progress = self._progress()
                if progress != answered or (probe is not None and probe.done() and probe.result()):
                    last, answered = time.monotonic(), progress
                silent = time.monotonic() - last
                if probe is not None and probe.done():
                    probe = None
                if probe is None and silent > self.settings.hang_s / 2:
                    probe = asyncio.create_task(_asked(client))
                if silent > self.settings.hang_s:
                    raise EngineError(f"vLLM has answered nothing for {self.settings.hang_s:.0f} s; see {self.log}")
        finally:
            if probe is not None:
                probe.cancel()
                await asyncio.gather(probe, return_exceptions=True)


def _some_of(cache: HeadCache) -> Sequence[str]:
    """Queries of all lengths that a cache holds."""
    found = sorted(itertools.islice(cache.queries(), 200), key=len) or ["warm up", "a longer one to warm up"]
    return found[:: max(1, len(found) // _WARM_UP)]


async def _asked(client: StudentClient) -> bool:
    try:
        await client.label(["ready"])
    except EngineUnavailableError:
        return False
    return True


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

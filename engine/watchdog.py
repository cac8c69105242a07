"""Keeps one engine running: starts it, warms it up, watches it, and starts it again when it dies or hangs.

The bundles that it serves are its tenants. They share the model, which they all hold; each may bring an adapter, which
is loaded while the engine runs and loaded again in each of its lives.

Before anybody else, a tenant is asked what the trained student was asked outside of any engine: one whose engine says
something else, for whatever reason, is not served.

An engine hangs when somebody waits and nobody gets an answer for `serving.hang_s`: a full queue is slow, not broken.
Who nobody asks is asked by us, seldom, because vLLM spins for a second after every question.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from engine.client import EngineUnavailableError, Judged, Student, StudentClient
from engine.process import Engine, EngineError, free_port, ready_to_start
from eval.quality import label_agreement
from serving.release.bundle import Bundle
from serving.release.head_cache import HeadCache
from task.labels import Example
from task.serving_settings import Serving
from task.tokenizer import FastTokenizer, load_tokenizer

State = Literal["starting", "ready", "restarting", "failed", "stopped"]
FIRST_PAUSE_S, LONGEST_PAUSE_S, FORGIVEN_AFTER_S = 1.0, 30.0, 60.0
_IDLE_S = 120.0
_PATIENCE_S = 120.0  # nobody waits for an engine that is handed out; with adapters a CPU answers two queries a second
_WARM_UP, _CHECKED = 8, 32


@dataclass(frozen=True, slots=True)
class Questions:
    """What an engine is asked before anybody else may ask it; held in memory, whatever becomes of the bundle.

    Attributes:
        warm_up: Queries of all lengths: the first ones are slow.
        reference: Queries with what the trained student says of them.
    """

    warm_up: Sequence[str]
    reference: Sequence[Example]

    @classmethod
    def of(cls, bundle: Bundle) -> Questions:
        """Some of its head queries, and the first of its reference."""
        queries = itertools.islice(HeadCache(bundle.folder / "cache").queries(), 200)
        found = sorted(queries, key=len) or ["warm up", "a longer one to warm up"]
        return cls(found[:: max(1, len(found) // _WARM_UP)], bundle.reference()[:_CHECKED])


@dataclass(eq=False, slots=True)
class Tenant:
    """A bundle that an engine serves.

    Attributes:
        tokenizer: Read, like the questions, while the bundle is as it was verified: a later life of the engine must not
            depend on what has become of it.
        settled: Done once it has been answered; with `EngineError` where it never will be.
        life: The last life of the engine in which it was welcomed.
    """

    bundle: Bundle
    tokenizer: FastTokenizer
    questions: Questions
    settled: asyncio.Future[None]
    life: int = -1


@dataclass(eq=False, slots=True)
class Keeper:
    """One engine and what has become of it; belongs to one event loop.

    Args:
        settings: Of the first tenant, or what the operator put in their place.
        log: Of the engine.
        answered: How many answers of a bundle the workers have had so far.
        waiting: How many of its queries they wait for.
    """

    settings: Serving
    log: Path
    answered: Callable[[str], int] = lambda _bundle: 0
    waiting: Callable[[str], int] = lambda _bundle: 0
    port: int = field(default_factory=free_port)
    state: State = "starting"
    restarts: int = 0
    why: str = ""
    tenants: list[Tenant] = field(default_factory=list)
    _engine: Engine | None = None
    _life: int = 0

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The engine's process, where there is one."""
        return self._engine.pid if self._engine is not None and self._engine.alive else None

    def serves(self, tenant: Tenant) -> bool:
        """Whether the engine has been asked for a tenant, and found right, in the life that it has now."""
        return self.pid is not None and tenant.life == self._life

    def admit(self, bundle: Bundle) -> Tenant:
        """Serve a bundle from now on."""
        tenant = Tenant(
            bundle, load_tokenizer(bundle.model), Questions.of(bundle), asyncio.get_running_loop().create_future()
        )
        self.tenants.append(tenant)
        return tenant

    def dismiss(self, tenant: Tenant) -> None:
        """Serve a bundle no longer; its adapter leaves the engine soon."""
        if tenant in self.tenants:
            self.tenants.remove(tenant)

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
                self._tell(self.why.splitlines()[0])
                if self.state == "starting":
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
            for tenant in self.tenants:
                _settle(tenant, EngineError(self.why or "stopped"))

    async def _live(self) -> None:
        """One life of an engine; raises `EngineError` at its end."""
        self._life += 1
        while not ready_to_start(self.settings, self.log):
            await asyncio.sleep(0.1)
        # Started by this thread, not a helper's: the kernel may end it when the thread that started it ends.
        engine = self._engine = engine_of(self.tenants[0].bundle, self.log, self.settings, self.port)
        try:
            await asyncio.to_thread(engine.wait_ready)
            await self._welcome(engine)
            if not any(t.life == self._life for t in self.tenants):
                raise EngineError(self.why or "nobody is left to serve")
            if self.state == "restarting":
                self._tell("answers again")
            self.state = "ready"
            await self._watch(engine)
        finally:
            engine.kill()

    async def _welcome(self, engine: Engine) -> None:
        """Load the adapters of new tenants and ask for them; unload those of tenants who are gone."""
        for tenant in [t for t in self.tenants if t.life != self._life]:
            bundle = tenant.bundle
            try:
                if bundle.adapter is not None and bundle.model_name not in engine.adapters:
                    await asyncio.to_thread(engine.load_adapter, bundle.model_name, bundle.adapter)
                async with self._client(tenant) as client:
                    await welcome(client, tenant.questions, self.settings.self_check)
            except (EngineError, EngineUnavailableError) as error:
                self.why = f"{bundle.model_name}: {error}"
                if tenant.settled.done() or not engine.alive:  # it was served before: the engine has lost it
                    raise EngineError(self.why) from error
                _settle(tenant, EngineError(self.why))
                self.dismiss(tenant)
                continue
            tenant.life = self._life
            _settle(tenant, None)
        for name in engine.adapters - {t.bundle.model_name for t in self.tenants}:
            await asyncio.to_thread(engine.unload_adapter, name)

    async def _watch(self, engine: Engine) -> None:
        """Look whether it lives, and whether those who wait get answers; raises `EngineError` where not."""
        now = time.monotonic()
        heard, since, answered = now, None, self._sum(self.answered)  # `since`: when somebody began to wait in vain
        probe: asyncio.Task[bool] | None = None
        try:
            while True:
                await asyncio.sleep(0.2)
                now = time.monotonic()
                if not engine.alive:
                    raise EngineError(f"vLLM ended with code {engine.code}; see {self.log}")
                progress = self._sum(self.answered)
                if progress != answered or (probe is not None and probe.done() and probe.result()):
                    heard, since, answered = now, None, progress
                if probe is not None and probe.done():
                    probe = None
                if since is None and (probe is not None or self._sum(self.waiting)):
                    since = now
                doubtful = since is not None and now - since > self.settings.hang_s / 2
                if probe is None and self.tenants and (doubtful or now - heard > _IDLE_S):
                    probe = asyncio.create_task(self._asked(self.tenants[0]))
                if since is not None and now - since > self.settings.hang_s:
                    raise EngineError(f"vLLM has answered nothing for {self.settings.hang_s:.0f} s; see {self.log}")
                names = {t.bundle.model_name for t in self.tenants}
                if engine.adapters - names or any(t.life != self._life for t in self.tenants):
                    await self._welcome(engine)
        finally:
            if probe is not None:
                probe.cancel()
                await asyncio.gather(probe, return_exceptions=True)

    def _sum(self, of: Callable[[str], int]) -> int:
        return sum(of(t.bundle.id) for t in self.tenants)

    def _client(self, tenant: Tenant) -> StudentClient:
        return StudentClient.of(tenant.bundle, self.url, tenant.tokenizer, self.settings.hang_s)

    async def _asked(self, tenant: Tenant) -> bool:
        try:
            async with self._client(tenant) as client:
                await client.label(["ready"])
        except EngineUnavailableError:
            return False
        return True

    def _tell(self, text: str) -> None:
        print(f"engine on port {self.port}: {text}", file=sys.stderr, flush=True)


async def welcome(student: Student, questions: Questions, least: float) -> None:
    """Ask an engine before clients do; raises `EngineError` like `check`, or `EngineUnavailableError`."""
    for query in questions.warm_up:
        await student.label([query])
    await student.label(questions.warm_up)
    await check(student, questions.reference, least)


async def check(student: Student, reference: Sequence[Example], least: float) -> None:
    """Raise `EngineError` where an engine gives less than this share of the labels that the trained student gave."""
    if not reference:
        return
    said: list[Judged] = []
    for at in range(0, len(reference), _WARM_UP):  # few at a time: a slow engine is not one that hangs
        said += await student.label([x.query for x in reference[at : at + _WARM_UP]])
    answers = [Example(x.query, judged.labels) for x, judged in zip(reference, said, strict=True)]
    same = label_agreement(reference, answers)
    if same < least:
        raise EngineError(
            f"the engine gives {same:.1%} of the labels that the trained student gave to {len(reference)} queries; "
            f"serving.self_check asks for {least:.0%}"
        )


def engine_of(bundle: Bundle, log: Path, settings: Serving | None = None, port: int | None = None) -> Engine:
    """Start what a bundle needs; its adapter, if it has one, is yet to be loaded."""
    settings = settings or bundle.task.serving
    if settings.quantization == "fp8":
        settings = settings.model_copy(update={"extra_args": (*settings.extra_args, "--quantization", "fp8")})
    return Engine(
        bundle.model, bundle.engine_name, bundle.runs_as, settings, log, port,
        settings.adapters if bundle.adapter is not None else None,
    )


def started(bundle: Bundle, log: Path) -> Engine:
    """An engine that serves one bundle, its adapter loaded, and has been welcomed; it belongs to the caller.

    Raises:
        EngineError: It did not start, or says something else than the trained student; none is left behind.
    """

    async def welcomed() -> None:
        try:
            async with StudentClient.of(bundle, engine.url, load_tokenizer(bundle.model), _PATIENCE_S) as client:
                await welcome(client, Questions.of(bundle), bundle.task.serving.self_check)
        except EngineUnavailableError as error:
            raise EngineError(f"{bundle.model_name}: {error}") from error

    engine = engine_of(bundle, log)
    try:
        engine.wait_ready()
        if bundle.adapter is not None:
            engine.load_adapter(bundle.model_name, bundle.adapter)
        with ThreadPoolExecutor(1) as helper:  # the caller may be in an event loop, as a replica of Ray's is
            helper.submit(asyncio.run, welcomed()).result()
    except BaseException:
        engine.close()
        raise
    return engine


def _settle(tenant: Tenant, error: EngineError | None) -> None:
    if tenant.settled.done():
        return
    if error is None:
        tenant.settled.set_result(None)
    else:
        tenant.settled.set_exception(error)
        tenant.settled.exception()  # nobody may be waiting

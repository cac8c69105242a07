"""Pool and watchdog with another kind of engine: they know nothing of vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from engine import watchdog
from engine.interface import EngineError, EngineUnavailableError
from engine.pool import EnginePool
from engine.servable import Servable, StartupQueries
from serving.release.bundle import Bundle
from task.forms import Decoded
from task.labels import Example, Label
from task.serving_settings import Serving

QUERIES = StartupQueries(["oat"], [Example("oat milk")])


@dataclass
class FakeEngine:
    """An engine without a process."""

    name: str
    url: str
    alive: bool = True
    pid: int = 1
    ended: str = "ended with code 0"
    adapters: set[str] = field(default_factory=set)

    def wait_ready(self) -> Self:
        return self

    def load_adapter(self, name: str, _folder: Path) -> None:
        self.adapters.add(name)

    def unload_adapter(self, name: str) -> None:
        self.adapters.discard(name)

    def close(self) -> None:
        self.alive = False

    def kill(self) -> None:
        self.alive = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class FakeKind:
    """Engines that give every query the same labels, and their clients."""

    engines: list[FakeEngine] = field(default_factory=list)
    labels: tuple[Label, ...] = ()

    def model_folder(self, servable: Servable) -> Path:
        return servable.model

    def ready_to_start(self, _settings: object, _log: Path) -> bool:
        return True

    def start(self, _model: Path, *, name: str, **_: Any) -> FakeEngine:
        self.engines.append(FakeEngine(name, "http://engine"))
        return self.engines[-1]

    def connect(self, _servable: Servable, _url: str, _tokenizer: object, **_: Any) -> FakeClient:
        return FakeClient(self)


@dataclass
class FakeClient:
    """Asks the engine that was started last."""

    kind: FakeKind

    async def label(self, queries: Sequence[str]) -> list[Decoded]:
        if not self.kind.engines[-1].alive:
            raise EngineUnavailableError("ended")
        return [Decoded(self.kind.labels, 1.0) for _ in queries]

    def prompt_tokens(self, query: str) -> int:
        return len(query)

    async def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> FakeKind:
    found = FakeKind()
    for module in ("engine.watchdog", "engine.startup"):
        monkeypatch.setattr(f"{module}.engine_kind", lambda _servable, _settings: found)
    monkeypatch.setattr(watchdog, "FIRST_PAUSE_S", 0.01)
    return found


def pool(folder: Path) -> EnginePool:
    return EnginePool(folder, answered=lambda _id: 0, waiting=lambda _id: 0, report=lambda _text, failed: None)


def test_models_with_the_same_weights_share_an_engine_that_ends_with_the_last(
    bundle: Bundle, kind: FakeKind, tmp_path: Path
) -> None:
    async def run() -> None:
        engines = pool(tmp_path)
        one, two = (engines.place(bundle, Serving(), QUERIES) for _ in range(2))
        other = engines.place(bundle, Serving(max_num_seqs=8), QUERIES)
        for placement in (one, two, other):
            await placement.wait_ready()
            assert placement.checked
        assert len(kind.engines) == 2
        assert one.watchdog is two.watchdog
        assert one.watchdog.log.parent == tmp_path
        await engines.remove(one)
        assert kind.engines[0].alive
        await engines.remove(two)
        assert [e.alive for e in kind.engines] == [False, True]
        await engines.close()
        assert not kind.engines[1].alive

    asyncio.run(run())


def test_an_engine_that_dies_is_started_again_and_checked_again(
    bundle: Bundle, kind: FakeKind, tmp_path: Path
) -> None:
    async def run() -> None:
        engines = pool(tmp_path)
        placement = engines.place(bundle, Serving(), QUERIES)
        await placement.wait_ready()
        kind.engines[0].kill()
        assert not placement.checked
        async with asyncio.timeout(10):
            while not placement.checked:
                await asyncio.sleep(0.01)
        assert (len(kind.engines), placement.watchdog.restarts) == (2, 1)
        await engines.close()

    asyncio.run(run())


def test_an_engine_whose_labels_differ_hosts_nothing(bundle: Bundle, kind: FakeKind, tmp_path: Path) -> None:
    async def run() -> None:
        kind.labels = (Label("product", "oat", 0, 3),)
        engines = pool(tmp_path)
        queries = StartupQueries([], [Example("oat milk", (Label("product", "oat milk", 0, 8),))])
        placement = engines.place(bundle, Serving(), queries)
        with pytest.raises(EngineError, match=r"gives 0\.0% of the labels"):
            await placement.wait_ready()
        assert not placement.checked
        await engines.close()

    asyncio.run(run())

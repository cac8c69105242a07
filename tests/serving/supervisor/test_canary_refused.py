"""A whole service whose new bundle is worse: it refuses it under load, and says so in the pointer and in its status."""

from __future__ import annotations

import datetime
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mixed_load import MixedLoad
from benchmarks.serving_changes import Service
from engine.loopback import free_port
from serving.client import served
from serving.release.bundle import Bundle, build
from serving.release.pointer import read_pointer, release
from student.merging.openvino_export import export
from student.merging.token_classifier import export_classifier
from task.codec import Codec
from task.labels import Example
from task.serving_settings import Bounds, Change
from task.tokenizer import FastTokenizer
from tests.conftest import make_task
from tests.limbeck.test_cli import in_process
from tests.serving.bundles import HITS, TASK

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # beside other tests on two cores queries miss their deadline
MISSES = [f"rice milk {i}" for i in range(20_000)]
BOUNDS = Bounds(slower=None, least=40)  # times of a busy test machine say nothing


@dataclass
class Stage:
    """A running service, its bundle, one that is as good, and one whose student withholds everything."""

    service: Service
    first: Bundle
    equal: Bundle
    silent: Bundle

    def release(self, bundle: Bundle, **change: Any) -> None:
        release(self.service.pointer, bundle=bundle.folder, ungated=True, change=Change(**change))

    def news(self, since: float) -> list[dict[str, Any]]:
        return [n for n in self.service.status()["news"] if at(n) >= since]

    def until(self, holds: Callable[[str], bool], since: float) -> dict[str, Any]:
        """The first event since then of which it holds."""
        self.service.until(lambda _: any(holds(n["text"]) for n in self.news(since)), 60.0)
        return next(n for n in self.news(since) if holds(n["text"]))


def at(news: dict[str, Any]) -> float:
    return datetime.datetime.fromisoformat(news["at"]).timestamp()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, tokenizer: FastTokenizer) -> Iterator[Stage]:
    """All three bundles have the same model, so that one engine runs them all and a change takes a second."""
    folder = tmp_path_factory.mktemp("canary")
    codec = Codec.compile(TASK, [], tokenizer)
    export_classifier(tiny_llama, codec.symbol_ids, folder / "classifier")
    export(folder / "classifier", folder / "openvino")

    def bundle(name: str, head: list[str], **certain: float) -> Bundle:
        task = make_task(serving=TASK.serving.model_dump(mode="json") | {"certain": certain})
        return build(
            folder / name, task, codec, folder / "classifier", [Example(q) for q in head], {},
            openvino=folder / "openvino",
        )

    first, equal = bundle("first", HITS), bundle("equal", HITS[:-1])
    silent = bundle("silent", HITS, uncertain=1.0, abstain=1.0)
    pointer, state, admin = folder / "live.json", folder / "state", free_port()
    release(pointer, bundle=first.folder, change=Change(), ungated=True)
    with served(pointer, state=state, options=["--admin-port", str(admin), "--set", "request_timeout_s=30"]) as url:
        yield Stage(Service(url, f"http://127.0.0.1:{admin}", state, pointer), first, equal, silent)


@pytest.fixture
def load(stage: Stage) -> Iterator[MixedLoad]:
    """Load during a change; afterwards no request has failed."""
    stage.service.healthy()
    with MixedLoad(stage.service.url, HITS[:-1], MISSES, rate=40.0, share=0.6) as found:
        yield found
    assert {x.status for x in found.outcomes} == {200}, [x.body for x in found.outcomes if x.status != 200][:3]
    assert sum(x.broken for x in found.outcomes) == 0


def refused(stage: Stage, why: str) -> None:
    """The bundle that withholds everything is refused: in the pointer, in the status, and the first one answers."""
    found = stage.service.until(lambda s: s["active"]["bundle"] == stage.first.id and s["trial"] is None, 30.0)
    pointer = read_pointer(stage.service.pointer)
    assert pointer.refused is not None
    assert (pointer.current.id, pointer.previous, pointer.refused.id) == (stage.first.id, None, stage.silent.id)
    assert why in pointer.refused.why
    assert "at most 5 points are allowed" in pointer.refused.why
    assert found["refused"] == pointer.refused.model_dump(mode="json")
    (said,) = [n for n in found["news"] if pointer.refused.why in n["text"]]
    assert said["failed"]
    assert not list((stage.service.state / "counted").iterdir())
    with urllib.request.urlopen(f"{stage.service.admin}/metrics", timeout=10) as response:
        counted = f'limbeck_canary_refused_total{{bound="abstained",bundle="{stage.silent.id}"}}'
        assert counted in response.read().decode()


def test_a_canary_that_abstains_on_everything_is_refused(stage: Stage, load: MixedLoad) -> None:
    began = time.time()
    stage.release(stage.silent, canary=0.4, canary_s=60.0, bounds=BOUNDS)
    said = stage.until(lambda text: "is refused" in text, began)
    assert at(said) - began < 40.0
    refused(stage, "abstained on 100.0 % of")
    quiet = time.time()
    time.sleep(1.0)
    assert {x.body["bundle"] for x in load.since(quiet)} == {stage.first.id}
    tried = [x for x in load.since(began) if not x.hit and x.body["bundle"] == stage.silent.id]
    assert {x.body["status"] for x in tried} == {"abstained"}
    shown = in_process("status", "--admin", stage.service.admin)
    assert "abstained on 100.0 %" in shown.stdout


def test_what_abstains_after_the_switch_is_taken_back(stage: Stage, load: MixedLoad) -> None:
    """The canary's share is too small to be judged; the bundle before takes over again on the engine it has."""
    began = time.time()
    stage.release(stage.silent, canary=0.001, canary_s=4.0, watch_s=60.0, keep_s=0.0, bounds=BOUNDS)
    said = stage.until(lambda text: text.startswith(f"canary of {stage.silent.id}"), began)
    assert "it is not judged" in said["text"]
    assert "`serving.change.bounds.least` asks for 40 of each" in said["text"]
    stage.until(lambda text: "is refused" in text, began)
    refused(stage, "abstained on 100.0 % of")
    quiet = time.time()
    time.sleep(1.0)
    assert {x.body["bundle"] for x in load.since(quiet)} == {stage.first.id}
    assert stage.silent.id in {x.body.get("bundle") for x in load.since(began)}


def test_an_equal_bundle_passes_and_clears_the_refusal(stage: Stage, load: MixedLoad) -> None:
    began = time.time()
    stage.release(stage.equal, canary=0.5, canary_s=6.0, watch_s=5.0, bounds=BOUNDS)
    said = stage.until(lambda text: text.startswith(f"watched {stage.equal.id} for 5 s"), began)
    assert "within its bounds on" in said["text"]
    found = stage.service.status()
    assert (found["active"]["bundle"], found["refused"]) == (stage.equal.id, None)
    pointer = read_pointer(stage.service.pointer)
    assert pointer.previous is not None
    assert (pointer.previous.id, pointer.refused) == (stage.first.id, None)
    assert not [n for n in stage.news(began) if n["failed"]]

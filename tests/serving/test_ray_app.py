"""The service on a real Ray Serve: replacement of a killed engine, and autoscaling."""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from pydantic import ValidationError
from ray import serve

from benchmarks.mixed_load import MixedLoad
from engine.loopback import free_port
from serving.ray_app import Between, Cluster, build
from serving.release.bundle import Bundle
from task.errors import InputError
from task.labels import Label
from task.tokenizer import FastTokenizer
from task.validation import violation
from tests.processes import gone, group
from tests.serving.bundles import HITS, MISSES, TASK, made

# Alone: beside other test processes on two cores Ray's proxies need longer than a request's deadline for its body.
pytestmark = [pytest.mark.timeout(600), pytest.mark.alone]


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="least \\(2\\) is more than most \\(1\\)"):
        Between(least=2)
    with pytest.raises(InputError, match="no bundle here"):
        build(Cluster(bundle=tmp_path))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, tokenizer: FastTokenizer) -> Bundle:
    return made(tmp_path_factory.mktemp("ray"), tiny_llama, tokenizer, "oat", openvino=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray of four processors, said to be there, started as the documentation says; gives its proxy's address."""
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


def engines() -> int:
    """How many engine replicas answer."""
    deployments = serve.status().applications["limbeck"].deployments
    return deployments["engine"].replica_states.get("RUNNING", 0)


def until(holds: Callable[[], bool], seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, serve.status()
        time.sleep(0.5)


def checked(load: MixedLoad) -> None:
    """No hit failed, misses were answered or refused, and no answer breaks the task's rules."""
    assert {x.status for x in load.outcomes if x.hit} <= {200}
    assert {x.status for x in load.outcomes if not x.hit} <= {200, 503}
    for x in load.outcomes:
        if x.status == 200:
            assert violation(TASK, x.query, [Label.from_json(y) for y in x.body["labels"]]) is None


@pytest.mark.slow
def test_an_engine_that_is_killed_is_replaced_and_the_other_answers(cluster: str, bundle: Bundle) -> None:
    two = Between(least=2, most=2)
    serve.run(build(Cluster(bundle=bundle.folder, engines=two)), name="limbeck", route_prefix="/")
    assert engines() == 2
    with urllib.request.urlopen(f"{cluster}/readyz", timeout=30) as response:
        assert response.status == 200
    handle: Any = serve.get_deployment_handle("engine", "limbeck")
    pids = {handle.pids.remote().result() for _ in range(20)}
    assert len(pids) == 2
    victim, engine = min(pids)
    assert os.getpriority(os.PRIO_PROCESS, victim) == os.getpriority(os.PRIO_PROCESS, 0), "requests wait behind others"
    with MixedLoad(cluster, HITS, MISSES, rate=25.0, share=0.25) as load:
        time.sleep(2.0)
        os.kill(victim, signal.SIGKILL)
        killed = time.time()
        time.sleep(2.0)
        until(lambda: engines() == 2 and victim not in {handle.pids.remote().result()[0] for _ in range(10)})
        time.sleep(2.0)
    checked(load)
    misses = [x for x in load.since(killed) if not x.hit]
    assert sum(x.status == 200 for x in misses) > 0.9 * len(misses)
    assert not group(engine)


@pytest.mark.slow
def test_one_engine_becomes_two_under_load_and_one_again(cluster: str, bundle: Bundle) -> None:
    serve.run(build(Cluster(
        bundle=bundle.folder, engines=Between(least=1, most=2), waiting_per_engine=1, grow_after_s=1.0,
        shrink_after_s=3.0,
    )), name="limbeck", route_prefix="/")
    until(lambda: engines() == 1)
    with MixedLoad(cluster, HITS, MISSES, rate=40.0, share=1.0) as load:
        until(lambda: engines() == 2)
    until(lambda: engines() == 1)
    checked(load)
    with MixedLoad(cluster, HITS, MISSES, rate=10.0, share=0.25) as after:
        time.sleep(2.0)
    checked(after)


@pytest.mark.slow
def test_a_replica_of_vllm_answers_and_leaves_no_process(
    cluster: str, tiny_llama: Path, tokenizer: FastTokenizer, tmp_path: Path
) -> None:
    bundle = made(tmp_path, tiny_llama, tokenizer, "milk", openvino=False)
    serve.run(build(Cluster(bundle=bundle.folder)), name="limbeck", route_prefix="/")
    handle: Any = serve.get_deployment_handle("engine", "limbeck")
    _, engine = handle.pids.remote().result()
    assert any("vllm" in " ".join(psutil.Process(pid).cmdline()).lower() for pid in group(engine))
    with MixedLoad(cluster, HITS, MISSES, rate=10.0, share=0.5) as load:
        time.sleep(2.0)
    checked(load)
    assert {x.status for x in load.outcomes} == {200}
    serve.delete("limbeck")
    assert gone(engine)
    assert not group(engine)

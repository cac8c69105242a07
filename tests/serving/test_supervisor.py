"""A whole service with real engines while things break: hits flow, misses are answered or refused in time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from serving.bundle import Bundle, build
from serving.engine import free_port
from serving.release import release, rollback
from serving.run import served
from student.classifier import export_classifier
from task.check import violation
from task.codec import Codec
from task.labels import Example, Label
from task.service import Change
from task.tokens import FastTokenizer
from tests.conftest import make_task

pytestmark = pytest.mark.slow
HITS = [f"oat milk {i}" for i in range(50)]
MISSES = [f"rice milk {i}" for i in range(50)]
TASK = make_task(serving={"hang_s": 5.0, "request_timeout_s": 5.0, "max_model_len": 256, "workers": 2})


def made(folder: Path, base: Path, tokenizer: FastTokenizer, product: str) -> Bundle:
    """A bundle whose cache says `product`, so that its hits are told from the other's."""
    codec = Codec.compile(TASK, [], tokenizer)
    export_classifier(base, codec, folder / "classifier")
    words = {"oat": (0, 3), "milk": (4, 8)}
    head = [Example(q, (Label("product", product, *words[product]),)) for q in HITS]
    return build(folder / "bundle", TASK, codec, folder / "classifier", head, {})


@dataclass
class Service:
    """A running service and what it can be asked."""

    url: str
    admin: str
    state: Path
    pointer: Path
    first: Bundle
    second: Bundle

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.admin}/status", timeout=10) as response:
            return dict(json.load(response))

    def until(self, holds: Callable[[dict[str, Any]], bool], seconds: float = 300.0) -> dict[str, Any]:
        """The status once it holds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.status()
            if holds(found):
                return found
            time.sleep(0.2)
        raise AssertionError(json.dumps(self.status(), indent=1))

    def healthy(self) -> dict[str, Any]:
        return self.until(lambda s: s["active"]["engine"] == "ready" and all(
            w["pid"] and w["generation"] == s["generation"] for w in s["workers"]
        ))


@dataclass
class Load:
    """Hits and misses at a steady pace from a thread of its own, over connections that are kept and made anew."""

    service: Service
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    bundles: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)
    broken: int = 0
    patience: float = 20.0  # the deadline is 5 s, but the machine may be busy with starting an engine
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(timeout=timeout) as kept:
            tasks, number = [], 0
            while not self._stop.is_set():
                tasks.append(asyncio.create_task(self._one(kept, number)))
                number += 1
                await asyncio.sleep(0.04)
            await asyncio.gather(*tasks)

    async def _one(self, kept: aiohttp.ClientSession, number: int) -> None:
        hit = number % 4 != 0
        query = (HITS if hit else MISSES)[number % 50]
        started = time.monotonic()
        for _ in range(3):  # a connection may break with the worker that held it: clients ask again
            try:
                async with contextlib.AsyncExitStack() as stack:
                    session = kept if number % 8 else await stack.enter_async_context(aiohttp.ClientSession())
                    response = await stack.enter_async_context(
                        session.post(f"{self.service.url}/v1/label", json={"query": query})
                    )
                    body = await response.json()
                    break
            except aiohttp.ClientError:
                self.broken += 1
        else:
            self.answers["hit" if hit else "miss", 0] += 1
            return
        self.slowest = max(self.slowest, time.monotonic() - started)
        self.answers["hit" if hit else "miss", response.status] += 1
        if response.status == 200:
            self._look(query, body)

    def _look(self, query: str, body: dict[str, Any]) -> None:
        """Whether an answer is one that its bundle gives."""
        s = self.service
        self.bundles[body["bundle"]] += 1
        problem = violation(TASK, query, [Label(**x) for x in body["labels"]])
        if body["source"] == "cache":
            expected = {s.first.id: "oat", s.second.id: "milk"}[body["bundle"]]
            if [x["text"] for x in body["labels"]] != [expected]:
                problem = f"{body['bundle']} said {body['labels']}"
        if problem:
            self.wrong.append(problem)


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, tiny_llama_untied: Path, tokenizer: FastTokenizer
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    first = made(folder / "a", tiny_llama, tokenizer, "oat")
    second = made(folder / "b", tiny_llama_untied, tokenizer, "milk")
    pointer, state = folder / "live.json", folder / "state"
    release(pointer, first.folder, Change())
    admin = free_port()
    with served(pointer, state, options=["--admin-port", str(admin)]) as url:
        yield Service(url, f"http://127.0.0.1:{admin}", state, pointer, first, second)


@pytest.fixture
def load(service: Service) -> Iterator[Load]:
    """Load on a healthy service; afterwards no hit has failed and no answer was wrong, whatever the test has done."""
    service.healthy()
    with Load(service) as found:
        time.sleep(1.0)
        yield found
        service.healthy()
        time.sleep(1.0)
    assert not found.wrong
    assert {status for kind, status in found.answers if kind == "hit"} == {200}
    assert {status for kind, status in found.answers if kind == "miss"} <= {200, 503}
    assert found.slowest < found.patience


def test_an_engine_that_is_killed_comes_back(service: Service, load: Load) -> None:
    before = service.status()["active"]
    os.killpg(before["pid"], signal.SIGKILL)
    now = service.until(lambda s: s["active"]["restarts"] > before["restarts"] and s["active"]["engine"] == "ready")
    assert now["active"]["pid"] != before["pid"]
    assert load.broken == 0


def test_an_engine_that_hangs_is_killed_and_comes_back(service: Service, load: Load) -> None:
    before = service.status()["active"]
    os.killpg(before["pid"], signal.SIGSTOP)
    now = service.until(lambda s: s["active"]["restarts"] > before["restarts"] and s["active"]["engine"] == "ready")
    assert "answered nothing" in now["active"]["why"]
    assert load.broken == 0


def test_a_worker_that_is_killed_is_replaced(service: Service, load: Load) -> None:
    before = service.status()["workers"][0]
    os.kill(before["pid"], signal.SIGKILL)
    service.until(lambda s: s["workers"][0]["pid"] not in (None, before["pid"]))


def test_a_cache_that_is_cut_or_swapped_on_disk_changes_nothing(service: Service, load: Load) -> None:
    path = service.first.folder / "cache" / "values.bin"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    time.sleep(1.0)
    path.write_bytes(bytes(len(content)))
    time.sleep(1.0)
    path.write_bytes(content)
    assert load.broken == 0


def test_a_service_that_lost_its_own_copy_heals_it(service: Service, load: Load) -> None:
    path = service.state / "bundles" / service.first.id / "cache" / "values.bin"
    load.patience = 60.0  # both may fall: then what comes waits until one is there again
    restarts = sum(w["restarts"] for w in service.status()["workers"])
    os.truncate(path, 0)  # mapped by both workers: the next look-up is a SIGBUS
    service.until(lambda s: sum(w["restarts"] for w in s["workers"]) >= restarts + 1)
    service.healthy()
    assert path.stat().st_size == (service.first.folder / "cache" / "values.bin").stat().st_size


def test_a_full_disk_costs_log_lines_only(service: Service, load: Load) -> None:
    log = service.state / "access.jsonl"
    log.unlink()
    log.symlink_to("/dev/full")
    time.sleep(1.5)
    log.unlink()
    time.sleep(1.0)
    assert json.loads(log.read_text().splitlines()[0])["path"]
    with urllib.request.urlopen(f"{service.admin}/metrics", timeout=10) as response:
        lost = [x for x in response.read().decode().splitlines() if x.startswith('limbeck_lost{what="access log"')]
    assert float(lost[0].split()[-1]) > 0
    assert load.broken == 0


def test_a_release_and_a_rollback_lose_no_request(service: Service, load: Load) -> None:
    release(service.pointer, service.second.folder, Change(
        shadow=1.0, shadow_s=1.0, canary=0.5, canary_s=1.0, keep_s=600.0
    ))
    service.until(lambda s: s["active"]["bundle"] == service.second.id and s["kept"] is not None)
    time.sleep(0.5)
    load.bundles.clear()
    time.sleep(1.0)
    assert set(load.bundles) == {service.second.id}
    for bundle in (service.first, service.second, service.first):  # the engine before is still there: a switch
        pid = service.status()["kept"]["pid"]
        rollback(service.pointer)
        now = service.until(lambda s, b=bundle: s["active"]["bundle"] == b.id and s["kept"] is not None, 60)
        assert now["active"]["pid"] == pid
    assert {status for _, status in load.answers} == {200}
    assert load.broken == 0
    texts = [n["text"] for n in service.status()["news"]]
    assert "shadow of 100% for 1 s" in texts
    assert "canary of 50% for 1 s" in texts


def test_a_bundle_that_is_not_what_was_released_is_refused(service: Service, load: Load, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(service.second.model, tmp_path / "model")  # no links to the weights of a bundle that is served
    build(broken, TASK, service.second.codec, tmp_path / "model", [], {})
    before = service.pointer.read_text()
    release(service.pointer, broken, Change())
    weights = broken / "model" / "model.safetensors"
    pointed = service.pointer.read_text()
    service.pointer.write_text(before)  # then the file is damaged between release and start
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    time.sleep(1.0)
    service.pointer.write_text(pointed)
    found = service.until(lambda s: "damaged" in s["news"][-1]["text"])
    assert found["active"]["bundle"] == service.first.id
    service.pointer.write_text(before)
    time.sleep(0.5)
    assert load.broken == 0


def test_operators_can_purge_and_look(service: Service) -> None:
    service.healthy()

    def ask(query: str) -> str:
        request = urllib.request.Request(f"{service.url}/v1/label", json.dumps({"query": query}).encode())
        with urllib.request.urlopen(request, timeout=10) as response:
            return str(json.load(response)["source"])

    def limbeck(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "limbeck", *arguments, "--admin", service.admin]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert ask(HITS[0]) == "cache"
    assert limbeck("purge", "--query", HITS[0].upper()).returncode == 0
    time.sleep(0.3)
    assert (ask(HITS[0]), ask(HITS[1])) == ("student", "cache")
    assert limbeck("purge", "--label", "product=oat").returncode == 0
    time.sleep(0.3)
    assert ask(HITS[1]) == "student"
    wrong = limbeck("purge")
    assert (wrong.returncode, "give one of" in wrong.stderr) == (2, True)
    assert limbeck("purge", "--nothing").returncode == 0
    time.sleep(0.3)
    assert ask(HITS[0]) == "cache"
    assert json.loads(limbeck("status").stdout)["active"]["engine"] == "ready"
    for path, word in (("/engine/metrics", "vllm:"), ("/metrics", "limbeck_answers_total"), ("/engine/log", "")):
        with urllib.request.urlopen(service.admin + path, timeout=10) as response:
            assert word in response.read().decode(errors="replace")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(service.admin + "/pause", timeout=10)


def test_two_services_do_not_share_a_folder(service: Service) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "limbeck", "serve", str(service.first.folder), "--port", "0", "--state",
         str(service.state)], capture_output=True, text=True, timeout=60, check=False,
    )
    assert (found.returncode, "another service runs from this folder" in found.stderr) == (2, True)


def test_nothing_outlives_a_supervisor_that_is_killed(service: Service) -> None:
    """The last one: it ends the service of this module."""
    status = service.healthy()
    pids = [status["active"]["pid"], *(w["pid"] for w in status["workers"])]
    (supervisor,) = {int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) for pid in pids}
    os.kill(supervisor, signal.SIGKILL)
    end = time.monotonic() + 60
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.2)
    assert not [pid for pid in pids if alive(pid)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False

"""A whole service with real engines during faults: hits are answered, misses answered or refused in time."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mixed_load import MixedLoad, Outcome
from benchmarks.serving_changes import Service, full_disk
from benchmarks.serving_fuzz import fuzz
from engine.loopback import free_port
from serving.client import served
from serving.release.bundle import Bundle, build
from serving.release.pointer import release, rollback
from task.files import read_json
from task.labels import Example, Label
from task.serving_settings import Change
from task.tokenizer import FastTokenizer
from task.validation import violation
from tests.limbeck.test_cli import limbeck
from tests.processes import descendants, gone, parent
from tests.serving.bundles import HITS, MISSES, TASK, made

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # beside other tests on two cores queries miss their deadline
_INJECTIONS = json.loads((Path(__file__).parents[1] / "gateway" / "injections.json").read_text())
INJECTIONS = [q for family in _INJECTIONS.values() for q in family]


@dataclass
class Stage:
    """A running service and the two bundles that it is given: OpenVINO serves the first one, vLLM the second."""

    service: Service
    first: Bundle
    second: Bundle

    def problems(self, outcomes: list[Outcome]) -> list[str]:
        """Answers that their bundle does not give."""
        said = {self.first.id: "oat", self.second.id: "milk"}
        out = []
        for x in outcomes:
            if x.status != 200:
                continue
            problem = violation(TASK, x.query, [Label.from_json(y) for y in x.body["labels"]])
            if x.body["source"] == "cache" and [y["text"] for y in x.body["labels"]] != [said[x.body["bundle"]]]:
                problem = f"{x.body['bundle']} said {x.body['labels']}"
            out += [problem] if problem else []
        return out


@dataclass
class Load(MixedLoad):
    """A load that knows how long an answer may take: the deadline is 5 s, but an engine may be starting beside it."""

    patience: float = 20.0

    @property
    def broken(self) -> int:
        return sum(x.broken for x in self.outcomes)


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, tiny_llama_untied: Path, tokenizer: FastTokenizer
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("service")
    first = made(folder / "a", tiny_llama, tokenizer, "oat", openvino=True)
    second = made(folder / "b", tiny_llama_untied, tokenizer, "milk", openvino=False)
    pointer, state = folder / "live.json", folder / "state"
    release(pointer, bundle=first.folder, change=Change(), ungated=True)
    admin = free_port()
    with served(pointer, state=state, options=["--admin-port", str(admin)]) as url:
        yield Stage(Service(url, f"http://127.0.0.1:{admin}", state, pointer), first, second)


@pytest.fixture
def service(stage: Stage) -> Service:
    return stage.service


@pytest.fixture
def load(stage: Stage) -> Iterator[Load]:
    """Load on a healthy service; afterwards no hit has failed and no answer was wrong, whatever the test has done."""
    stage.service.healthy()
    with Load(stage.service.url, HITS, MISSES, rate=25.0, share=0.25) as found:
        time.sleep(1.0)
        yield found
        stage.service.healthy()
        time.sleep(1.0)
    assert not stage.problems(found.outcomes)
    assert {x.status for x in found.outcomes if x.hit} == {200}
    assert {x.status for x in found.outcomes if not x.hit} <= {200, 503}
    assert max(x.seconds for x in found.outcomes) < found.patience


def check_injections(url: str) -> None:
    """No query changes shapes or its neighbours' answers: the injections, each in one batch with two plain queries."""
    neighbours = ["rice MILK 1", "oat bread"]

    def ask(queries: list[str]) -> dict[str, dict[str, Any]]:
        body = json.dumps({"queries": queries, "use_cache": False}).encode()
        request = urllib.request.Request(f"{url}/v1/label:batch", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return {queries[r["index"]]: r for r in map(json.loads, response)}

    def said(row: dict[str, Any]) -> list[tuple[object, ...]]:
        return [(x["role"], x["text"], x["start"], x["end"]) for x in row["labels"]]

    alone = {q: said(ask([q])[q]) for q in neighbours}
    for query in INJECTIONS:
        found = ask([neighbours[0], query, neighbours[1]])
        assert all("error" not in found[q] for q in neighbours), found
        assert {q: said(found[q]) for q in neighbours} == alone, query
        assert violation(TASK, query, [Label.from_json(x) for x in found[query]["labels"]]) is None


def page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode(errors="replace"))


def engine_metrics(service: Service) -> str:
    """What the engine that answers says of itself."""
    return page(f"{service.admin}/engine/metrics")


def test_no_query_changes_shapes_or_its_neighbours_answers(service: Service) -> None:
    service.healthy()
    check_injections(service.url)


def test_an_engine_that_is_killed_comes_back(service: Service, load: Load) -> None:
    before = service.status()["active"]
    os.killpg(before["pid"], signal.SIGKILL)
    pid = service.until(lambda s: not s["asked"] and s["active"]["pid"] not in (None, before["pid"]))["active"]["pid"]
    os.killpg(pid, signal.SIGSTOP)  # so that its start takes as long as that of a large model
    time.sleep(0.5)
    silent = time.time()  # by now each worker knows
    assert f'limbeck_engine_up{{bundle="{before["bundle"]}"}} 0.0' in page(f"{service.url}/metrics")
    for _ in range(12):  # each worker says so, whether it was ever asked before or not: the service still answers hits
        assert json.loads(page(f"{service.url}/readyz"))["status"] == "degraded"
    time.sleep(1.5)
    checked = time.time()
    os.killpg(pid, signal.SIGCONT)
    found = service.until(lambda s: s["asked"])["active"]
    assert (found["pid"], found["restarts"]) == (pid, before["restarts"] + 1)
    told = read_json(service.state / "status.json")  # what somebody reads who comes later
    ended, again = told["news"][-2:]
    assert ("the engine ended with code -9 (SIGKILL); " in ended["text"], ended["failed"]) == (True, True)
    assert datetime.datetime.fromisoformat(ended["at"]).utcoffset() == datetime.timedelta()
    assert ("answers again" in again["text"], again["failed"]) == (True, False)
    assert told["tasks"][TASK.name]["active"]["restarts"] == found["restarts"]
    assert found["why"] is None
    assert service.until(lambda _: read_json(service.state / "status.json")["tasks"][TASK.name]["asked"])
    said = page(f"{service.admin}/metrics")
    assert f'limbeck_engine_up{{bundle="{found["bundle"]}"}} 1.0' in said
    assert f'limbeck_engine_restarts_total{{bundle="{found["bundle"]}"}} {found["restarts"]}.0' in said
    service.healthy()
    ready = time.time()
    time.sleep(1.0)
    assert load.broken == 0
    meanwhile = [x for x in load.since(silent, checked) if not x.hit]
    assert meanwhile
    assert {x.status for x in meanwhile} == {503}  # no query is answered by an engine that has not been checked
    assert 200 in {x.status for x in load.since(ready) if not x.hit}


def test_an_engine_that_hangs_is_killed_and_comes_back(stage: Stage, service: Service, load: Load) -> None:
    """Also where the folder that the bundle was released from is no longer there."""
    before = service.status()["active"]
    away = stage.first.folder.rename(stage.first.folder.with_name("away"))
    os.killpg(before["pid"], signal.SIGSTOP)
    now = service.until(lambda s: s["active"]["restarts"] > before["restarts"] and s["active"]["engine"] == "ready")
    away.rename(stage.first.folder)
    assert now["active"]["why"] is None
    assert "answered nothing" in " ".join(n["text"] for n in service.status()["news"][-3:])
    assert load.broken == 0


def test_a_worker_that_is_killed_is_replaced(service: Service, load: Load) -> None:
    before = service.status()["workers"][0]
    os.kill(before["pid"], signal.SIGKILL)
    service.until(lambda s: s["workers"][0]["pid"] not in (None, before["pid"]))


def test_a_cache_that_is_cut_or_swapped_on_disk_changes_nothing(stage: Stage, service: Service, load: Load) -> None:
    path = stage.first.folder / "cache" / "values.bin"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    time.sleep(1.0)
    path.write_bytes(bytes(len(content)))
    time.sleep(1.0)
    path.write_bytes(content)
    assert load.broken == 0


def test_a_service_that_lost_its_own_copy_heals_it(stage: Stage, service: Service, load: Load) -> None:
    path = service.state / "bundles" / stage.first.id / "cache" / "values.bin"
    load.patience = 60.0  # both may fall: then what comes waits until one is there again
    restarts = sum(w["restarts"] for w in service.status()["workers"])
    os.truncate(path, 0)  # mapped by both workers: the next look-up is a SIGBUS
    service.until(lambda s: sum(w["restarts"] for w in s["workers"]) >= restarts + 1)
    service.healthy()
    assert path.stat().st_size == (stage.first.folder / "cache" / "values.bin").stat().st_size


def test_a_full_disk_costs_log_lines_only(service: Service, load: Load) -> None:
    log = service.state / "access.jsonl"
    full_disk(log, 1.5)
    time.sleep(1.0)
    assert json.loads(log.read_text().splitlines()[0])["path"]
    lost = [x for x in page(f"{service.admin}/metrics").splitlines() if x.startswith('limbeck_lost{what="access log"')]
    assert float(lost[0].split()[-1]) > 0
    assert load.broken == 0


def test_a_release_and_a_rollback_lose_no_request(stage: Stage, service: Service, load: Load) -> None:
    release(service.pointer, bundle=stage.second.folder, change=Change(
        shadow=1.0, shadow_s=1.0, canary=0.5, canary_s=1.0, keep_s=600.0
    ), ungated=True)
    service.until(lambda s: s["active"]["bundle"] == stage.second.id and s["kept"] is not None)
    time.sleep(0.5)
    now = time.time()
    time.sleep(1.0)
    assert {x.body["bundle"] for x in load.since(now)} == {stage.second.id}
    assert "vllm:" in engine_metrics(service)
    check_injections(service.url)
    for bundle in (stage.first, stage.second, stage.first):  # the engine before is still there: a switch
        pid = service.status()["kept"]["pid"]
        rollback(service.pointer)
        found = service.until(lambda s, b=bundle: s["active"]["bundle"] == b.id and s["kept"] is not None, 60)
        assert found["active"]["pid"] == pid
    assert {x.status for x in load.outcomes} == {200}, [x.body for x in load.outcomes if x.status != 200][:3]
    assert "limbeck_engine_" in engine_metrics(service)
    assert load.broken == 0
    texts = [n["text"] for n in service.status()["news"]]
    assert "shadow of 100% for 1 s" in texts
    assert "canary of 50% for 1 s" in texts


def test_a_bundle_that_is_not_what_was_released_is_refused(
    stage: Stage, service: Service, load: Load, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(stage.second.model, tmp_path / "model")  # no links to the weights of a bundle that is served
    build(broken, TASK, stage.second.codec, tmp_path / "model", [], {})
    before = service.pointer.read_text()
    release(service.pointer, bundle=broken, change=Change(), ungated=True)
    weights = broken / "model" / "model.safetensors"
    pointed = service.pointer.read_text()
    service.pointer.write_text(before)  # then the file is damaged between release and start
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    time.sleep(1.0)
    service.pointer.write_text(pointed)
    found = service.until(lambda s: "damaged" in s["news"][-1]["text"])
    assert found["active"]["bundle"] == stage.first.id
    service.pointer.write_text(before)
    time.sleep(0.5)
    assert load.broken == 0


def test_a_bundle_whose_engine_says_something_else_than_its_student_is_refused(
    stage: Stage, service: Service, load: Load, tmp_path: Path
) -> None:
    other = [Example(q, (Label("product", "oat milk", 0, 8),)) for q in HITS[:5]]
    build(
        tmp_path / "other", TASK, stage.first.codec, stage.first.model, [], {}, reference=other,
        openvino=stage.first.openvino,
    )  # the model of the engine that runs
    before = service.pointer.read_text()
    release(service.pointer, bundle=tmp_path / "other", change=Change(), ungated=True)
    found = service.until(lambda s: "serving.self_check" in s["news"][-1]["text"])
    assert found["active"]["bundle"] == stage.first.id
    service.pointer.write_text(before)
    time.sleep(0.5)
    assert {x.status for x in load.outcomes} == {200}, [x.body for x in load.outcomes if x.status != 200][:3]


def test_operators_can_purge_and_look(service: Service) -> None:
    service.healthy()

    def ask(query: str) -> str:
        request = urllib.request.Request(f"{service.url}/v1/label", json.dumps({"query": query}).encode())
        with urllib.request.urlopen(request, timeout=10) as response:
            return str(json.load(response)["source"])

    admin = ("--admin", service.admin)

    assert ask(HITS[0]) == "cache"
    bundle = service.status()["active"]["bundle"]
    said = limbeck("purge", "--query", HITS[0].upper(), *admin)
    assert (said.returncode, f"(1 of the head cache of {bundle}, 0 kept answers)" in said.stdout) == (0, True)
    assert "(0 of the head cache of" in limbeck("purge", "--query", HITS[0], *admin).stdout  # no longer
    time.sleep(0.3)
    assert (ask(HITS[0]), ask(HITS[1])) == ("student", "cache")
    assert f"({len(HITS) - 1} of the head cache of" in limbeck("purge", "--label", "product=oat", *admin).stdout
    time.sleep(0.3)
    assert ask(HITS[1]) == "student"
    wrong = limbeck("purge", *admin)
    assert (wrong.returncode, "says not what to purge" in wrong.stderr) == (2, True)
    assert limbeck("purge", "--nothing", *admin).stdout == "3 purges are undone\n"
    time.sleep(0.3)
    assert ask(HITS[0]) == "cache"
    active = json.loads(limbeck("status", *admin).stdout)["tasks"]["toy"]["active"]
    assert (active["engine"], active["gate"]) == ("ready", "no gate has judged it")
    assert "limbeck_engine_" in engine_metrics(service)
    for path, word in (("/metrics", "limbeck_answers_total"), ("/engine/log", "")):
        assert word in page(service.admin + path)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(service.admin + "/pause", timeout=10)


def test_generated_requests_get_labels_or_a_refusal(service: Service) -> None:
    service.healthy()
    found = fuzz(service.url, service.admin, requests=2_000, examples=30)
    assert found["schemathesis"]["ok"], "\n".join(found["schemathesis"]["output"])
    statuses = set(map(int, found["mutations"]["statuses"]))
    assert statuses <= {0, 200, 400, 404, 405, 408, 413, 415, 422, 431, 503}
    assert set(found["vllm_paths"].values()) == {404}


def test_two_services_do_not_share_a_folder(stage: Stage, service: Service) -> None:
    found = limbeck("serve", stage.first.folder, "--port", "0", "--state", service.state)
    assert (found.returncode, "another service runs from this folder" in found.stderr) == (2, True)


def test_nothing_outlives_a_supervisor_that_is_killed(service: Service) -> None:
    """The last one: it ends the service of this module."""
    status = service.healthy()
    workers = [w["pid"] for w in status["workers"]]
    (supervisor,) = {parent(pid) for pid in workers}
    pids = descendants(supervisor)
    assert {status["active"]["pid"], *workers} < set(pids)  # and the process from which vLLM's servers are forked
    os.kill(supervisor, signal.SIGKILL)
    end = time.monotonic() + 60
    assert not [pid for pid in pids if not gone(pid, end - time.monotonic())]

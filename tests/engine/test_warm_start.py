"""Servers forked from one process that has imported vLLM are independent of each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.interface import EngineError
from engine.vllm_process import VllmProcess, ready_to_start
from engine.warm_start import LaunchRequest, WarmStartError, WarmStartProcess, warm_start_process
from task.serving_settings import Serving
from tests.processes import gone

pytestmark = pytest.mark.slow
PARENT = """
import os, sys, time
from pathlib import Path
from engine.warm_start import WarmStartProcess
print(WarmStartProcess(dict(os.environ), Path(sys.argv[1]), nice=0).pid, flush=True)
time.sleep(300)
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("warm") / "warm.log"


@pytest.fixture(scope="module")
def warm(log: Path) -> Iterator[WarmStartProcess]:
    found = WarmStartProcess({**os.environ, "OMP_NUM_THREADS": "1"}, log, nice=0)
    try:
        end = time.monotonic() + 240
        while not found.ready() and time.monotonic() < end:
            time.sleep(0.1)
        yield found
    finally:
        found.close()


def request(log: Path, *arguments: str, **environment: str) -> LaunchRequest:
    return LaunchRequest(arguments, {**os.environ, **environment}, str(log))


def until_ready(settings: Serving, log: Path) -> None:
    while not ready_to_start(settings, log):
        time.sleep(0.05)


def test_a_server_says_in_its_own_log_how_it_ended(warm: WarmStartProcess, tmp_path: Path) -> None:
    helped = warm.start(request(tmp_path / "help.log", "--help"), 10)
    refused = warm.start(request(tmp_path / "none.log", "--model", str(tmp_path / "no-model")), 10)
    assert helped.wait(120) == 0
    assert refused.wait(120) == 1
    assert helped.poll() == helped.returncode == 0
    assert "--served-model-name" in (tmp_path / "help.log").read_text()
    assert "no-model" in (tmp_path / "none.log").read_text()
    assert gone(helped.pid)


def test_servers_are_groups_of_their_own_with_environments_of_their_own(warm: WarmStartProcess, tmp_path: Path) -> None:
    first = warm.start(request(tmp_path / "a.log", "--model", str(tmp_path), HOME=str(tmp_path / "a")), 10)
    second = warm.start(request(tmp_path / "b.log", "--help"), 10)
    assert [os.getsid(x.pid) for x in (first, second)] == [first.pid, second.pid]
    os.killpg(first.pid, signal.SIGKILL)
    assert first.wait(10) == -signal.SIGKILL
    assert second.wait(120) == 0


def test_waiting_has_an_end(warm: WarmStartProcess, tmp_path: Path) -> None:
    server = warm.start(request(tmp_path / "help.log", "--help"), 10)
    os.kill(server.pid, signal.SIGSTOP)
    assert server.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        server.wait(0.05)
    os.kill(server.pid, signal.SIGCONT)
    assert server.wait(120) == 0


def test_servers_outlive_their_parent_and_the_next_one_is_another(tmp_path: Path) -> None:
    log = tmp_path / "warm.log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LIMBECK_TEST": "1"}
    first = warm_start_process(environment, log, nice=0)
    assert warm_start_process(environment, log, nice=0) is first
    other = warm_start_process({**environment, "OMP_NUM_THREADS": "2"}, log, nice=0)
    assert other is not first
    os.kill(other.pid, signal.SIGKILL)  # its imports would take as long as the rest of this test
    server = first.start(request(tmp_path / "help.log", "--help"), 240)
    os.kill(server.pid, signal.SIGSTOP)
    os.kill(first.pid, signal.SIGKILL)
    assert gone(first.pid)
    assert server.poll() is None
    os.killpg(server.pid, signal.SIGKILL)
    assert server.wait(10) == 255  # its exit code was lost with its parent
    with pytest.raises(WarmStartError, match="ended with code -9"):
        first.start(request(tmp_path / "help.log", "--help"), 10)
    next_one = warm_start_process(environment, log, nice=0)
    assert next_one is not first
    os.kill(next_one.pid, signal.SIGKILL)


def test_a_killed_parent_leaves_no_warm_start_process(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid, 0.2)
        parent.kill()
    assert gone(pid, 240)


def test_one_that_cannot_import_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "vllm"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('a broken installation')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    log = tmp_path / "engine.log"
    with pytest.raises(EngineError, match="ended with code 1"):
        VllmProcess(
            tmp_path, name="student", runs_as="read", settings=Serving(cpu_threads=7), log=log
        )  # no other test's warm-start process
    with pytest.raises(EngineError, match="ended with code 1"):
        until_ready(Serving(cpu_threads=7), log)
    assert "a broken installation" in log.read_text()

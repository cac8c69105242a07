"""Ray as it is found: `RAY_ADDRESS` set by others, a long TMPDIR, other versions, the folder that we are started in."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest
from ray._private.utils import check_version_info

from task.errors import InputError
from task.python_process import environment, python
from task.ray_start import _check_answers, explained, ray_running

SCRIPT = """
import signal
import ray
from student.ray_connection import connected
from tests.conftest import make_task

def imported():
    import task.labels, teacher
    return task.__file__

start = ray.init

def slow_at_first(**options):  # in the words of Ray, once
    ray.init = start
    raise Exception("The current node timed out during startup. This could happen because")

def main():
    ray.init = slow_at_first
    with connected(make_task(student={"cpus_per_worker": 1}).student, cpus=2):
        for variables in ({}, {"RAY_worker_niceness": "0"}):
            work = ray.remote(imported).options(runtime_env={"env_vars": variables} if variables else None)
            print("imported", ray.get(work.remote()))

main()
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "Ray's handler is left"
"""


@pytest.mark.slow
def test_a_local_run_starts_ray_here_whatever_the_environment_and_the_folder_are(tmp_path: Path) -> None:
    """All at once, because each start of Ray takes seconds."""
    for name in ("task", "teacher", "student"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported from the current folder')")
    temporary = tmp_path / ("t" * 84)
    temporary.mkdir()
    done = subprocess.run(
        python("-c", SCRIPT), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240,
        env=environment() | {"RAY_ADDRESS": "127.0.0.1:6399", "TMPDIR": str(temporary)},
    )
    import task

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split("\n")[:2] == [f"imported {task.__file__}"] * 2
    assert list(temporary.glob("session_*")), "what Ray writes belongs into TMPDIR"


@pytest.mark.parametrize(("ray", "python_version"), [(None, "3.9.1"), ("2.1.0", None)])
def test_another_version_is_told_as_such(ray: str | None, python_version: str | None) -> None:
    import platform

    import ray as ours

    cluster = {"ray_version": ray or ours.__version__, "python_version": python_version or platform.python_version()}
    with pytest.raises(RuntimeError) as caught:
        check_version_info(cluster, "node 10.0.0.1")
    told = str(explained(caught.value, "auto", "student.ray_address"))
    assert "the cluster and this process run different versions" in told
    assert (ray or python_version or "") in told
    assert "student.ray_address" in told
    assert "or null for a local run" not in told


def test_an_address_is_blamed_only_where_there_is_one() -> None:
    none = ConnectionError("Could not find any running Ray instance")
    unreachable = str(explained(none, "auto", "teacher.ray_address"))
    assert "teacher.ray_address" in unreachable
    assert "or null for a local run" in unreachable
    sockets = str(explained(OSError("AF_UNIX path length cannot exceed 107 bytes: /x"), None, "student.ray_address"))
    assert "TMPDIR" in sockets
    other = str(explained(RuntimeError("out of\nfile descriptors"), None, "student.ray_address"))
    assert "Ray cannot start on this machine: out of file descriptors" in other
    busy = str(explained(Exception("The current node timed out during startup. This"), None, "student.ray_address"))
    assert "which may be too busy" in busy
    assert not any("ray_address" in x for x in (sockets, other, busy))


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "localhost:{}", "ray://127.0.0.1:{}"])
def test_an_address_where_nothing_listens_is_told_at_once(address: str) -> None:
    """Ray tries for minutes, and its last words are a line of a log."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # taken, and not listening
        taken = address.format(listener.getsockname()[1])
        with (
            pytest.raises(InputError, match=rf"student\.ray_address: nothing answers at this address: .*'{taken}'"),
            ray_running(taken, field="student.ray_address", variables={}),
        ):
            pass


@pytest.mark.parametrize("address", ["auto", "host:port", "[::1", "http://127.0.0.1:1"])
def test_other_addresses_are_left_to_ray(address: str) -> None:
    _check_answers(address, "student.ray_address")

"""Processes that are started in a folder with files that have the names of our packages or of Python's modules."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from task.python_process import PACKAGES, environment, python, without_current_folder
from task.python_process import ended as how_it_ended

NAMES = ("engine", "eval", "limbeck", "llm_client", "samples", "serving", "student", "task", "teacher", "types", "json")


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: each of the names is a file that fails when it is imported."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ended(command: list[str], variables: dict[str, str]) -> str:
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


@pytest.mark.parametrize("path", ["", ":", "/nowhere", ":/nowhere:"])
def test_a_child_imports_what_its_parent_does(trap: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a child's child, and where an empty entry of PYTHONPATH means the current folder."""
    monkeypatch.setenv("PYTHONPATH", path)
    code = "import json, types, task.labels, sys; print(task.__file__, '/nowhere' in sys.path)"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    for command in (python("-c", code), python("-c", nested)):
        assert ended(command, environment()).split() == [str(PACKAGES / "task/__init__.py"), str("/nowhere" in path)]
    assert "imported from the current folder" in ended([sys.executable, "-c", code], {**os.environ, "PYTHONPATH": ""})


@pytest.mark.parametrize("module", ["serving.supervisor.worker", "limbeck", "engine.warm_start"])
def test_what_we_start_by_name_starts_there(trap: Path, module: str) -> None:
    """Without its arguments each ends at once, later than with its imports."""
    said = ended(python("-m", module), environment())
    assert "current folder" not in said
    assert re.search(r"not enough values to unpack|Usage: |IndexError: list index out of range", said), said


def test_python_m_limbeck_starts_there(trap: Path) -> None:
    (trap / "limbeck.py").unlink()  # Python itself finds this one before ours
    said = ended([sys.executable, "-m", "limbeck", "--help"], environment() | {"PYTHONSAFEPATH": ""})
    assert "Usage: " in said, said


@pytest.mark.parametrize("before", [None, "", "1"])
def test_processes_that_a_library_starts_skip_it_and_later_ones_are_as_before(
    trap: Path, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    if before is not None:
        monkeypatch.setenv("PYTHONSAFEPATH", before)
    monkeypatch.setenv("PYTHONPATH", str(PACKAGES))
    variables = dict(os.environ)
    context = multiprocessing.get_context("spawn")
    with without_current_folder(), ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()
    assert dict(os.environ) == variables


def test_no_package_starts_python_in_another_way() -> None:
    found = {
        str(path.relative_to(PACKAGES))
        for name in NAMES[:9] for path in (PACKAGES / name).rglob("*.py") if "sys.executable" in path.read_text()
    }
    # The guard's child is started with -I, which leaves the current folder out as well.
    assert found <= {"task/python_process.py", "engine/process_guard.py"}


def test_how_a_process_ended_is_said_with_the_name_of_its_signal() -> None:
    assert how_it_ended(3) == "ended with code 3"
    assert how_it_ended(-9) == "ended with code -9 (SIGKILL)"
    assert how_it_ended(-99) == "ended with code -99 (an unknown signal)"

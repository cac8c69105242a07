"""What was released stays servable, whatever becomes of the folder that it was released from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from serving.release.bundle import Bundle, build, stamp
from serving.release.kept_bundles import hold
from serving.release.pointer import open_source, read_pointer, release, rollback
from serving.supervisor.supervisor import Supervisor
from task.labels import Example, Label
from task.serving_settings import Change

Make = Callable[[int], Path]

KILLED = """
import os, signal, sys
from pathlib import Path
from serving.release import kept_bundles
from serving.release.pointer import release
from task.serving_settings import Change
left, link = int(sys.argv[3]), kept_bundles.link_or_copy
def some(source, *, target):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return link(source, target=target)
kept_bundles.link_or_copy = some
release(Path(sys.argv[1]), bundle=Path(sys.argv[2]), change=Change(), ungated=True)
"""


@pytest.fixture
def make(bundle: Bundle, tmp_path: Path) -> Make:
    """Writes the bundle number n into the same folder each time, as `limbeck bundle` does in a run folder."""

    def made(number: int) -> Path:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        head = [Example(f"milk {number}", (Label("product", "milk", 0, 4),))]
        return build(tmp_path / "run", bundle.task, bundle.codec, bundle.model, head, {}).folder

    return made


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the bundles."""
    with TemporaryDirectory(dir="/dev/shm") as folder:
        if Path(folder).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm is on the file system of the temporary files")
        yield Path(folder)


def released(pointer: Path, folder: Path) -> str:
    return release(pointer, bundle=folder, change=Change(), ungated=True).current.id


def kept(pointer: Path) -> set[str]:
    return {p.name for p in Path(f"{pointer}.bundles").iterdir()} - {"lock"}


def test_a_folder_that_is_written_again_costs_neither_rollback_nor_restart(make: Make, tmp_path: Path) -> None:
    pointer = tmp_path / "live.json"
    first = released(pointer, make(1))
    folder = make(2)  # the pointer still names the first
    assert open_source(pointer).id == first
    Supervisor(pointer, state=tmp_path / "state")
    second = released(pointer, folder)
    shutil.rmtree(folder)
    assert [rollback(pointer).current.id, open_source(pointer).id, rollback(pointer).current.id] == [
        first, first, second
    ]
    assert open_source(pointer).folder == tmp_path / "live.json.bundles" / second


def test_what_is_kept_takes_no_space_and_moves_with_its_pointer(make: Make, tmp_path: Path) -> None:
    pointer, folder = tmp_path / "desk" / "live.json", make(1)
    released(pointer, folder)
    weights = open_source(pointer).folder / "model" / "model.safetensors"
    assert weights.samefile(folder / "model" / "model.safetensors")
    (tmp_path / "desk").rename(tmp_path / "attic")
    assert open_source(tmp_path / "attic" / "live.json").id == read_pointer(tmp_path / "attic" / "live.json").current.id


def test_on_another_file_system_it_is_copied(make: Make, elsewhere: Path) -> None:
    pointer, folder = elsewhere / "live.json", make(1)
    number = released(pointer, folder)
    shutil.rmtree(folder)
    assert open_source(pointer).id == number


def test_only_what_the_pointer_or_a_service_can_need_is_kept(make: Make, tmp_path: Path) -> None:
    pointer = tmp_path / "live.json"
    first = released(pointer, make(1))
    held = hold(open_source(pointer).folder)  # a service in which none of the later ones starts
    later = [released(pointer, make(n)) for n in range(2, 6)]
    assert kept(pointer) == {first, *later[-3:]}  # the one before last may still be leaving a service
    os.close(held)
    assert released(pointer, make(6)) in kept(pointer)
    assert len(kept(pointer)) == 3
    assert first not in kept(pointer)


def test_a_bundle_that_is_judged_after_its_release_is_kept_with_the_verdict(make: Make, tmp_path: Path) -> None:
    pointer, folder = tmp_path / "live.json", make(1)
    number = released(pointer, folder)
    assert "gate" not in open_source(pointer).manifest
    stamp(folder, [])
    assert "gate" not in open_source(pointer).manifest
    assert released(pointer, folder) == number
    assert open_source(pointer).manifest["gate"]["ok"]
    assert released(pointer, open_source(pointer).folder) == number  # what is kept can be released itself
    assert open_source(pointer).manifest["gate"]["ok"]


def test_a_release_mends_what_is_kept(make: Make, tmp_path: Path) -> None:
    pointer, folder = tmp_path / "live.json", make(1)
    number = released(pointer, folder)
    (open_source(pointer).folder / "codec.json").unlink()
    assert released(pointer, folder) == number
    assert open_source(pointer).id == number


@pytest.mark.parametrize("files", [1, 5])
def test_a_release_that_is_killed_leaves_nothing_half(make: Make, tmp_path: Path, files: int) -> None:
    pointer = tmp_path / "live.json"
    first = released(pointer, make(1))
    folder = make(2)
    done = subprocess.run([sys.executable, "-c", KILLED, pointer, folder, str(files)], timeout=60, check=False)
    assert done.returncode == -9
    assert open_source(pointer).id == first
    second = released(pointer, folder)
    assert kept(pointer) == {first, second}

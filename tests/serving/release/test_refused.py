"""A refused bundle in the release pointer, and what a release takes from the bundle's own `serving.change`."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from serving.release import kept_bundles
from serving.release.bundle import Bundle, build
from serving.release.pointer import Refused, Release, read_pointer, refuse, release, rollback
from task.errors import InputError
from task.files import read_json, write_json
from task.serving_settings import Bounds, Change, Serving
from tests.conftest import make_task
from tests.limbeck.test_cli import in_process

WHY = "abstained on 31.0 % of 412 answers"


@pytest.fixture
def second(bundle: Bundle, tmp_path: Path, tiny_llama_untied: Path) -> Bundle:
    return build(tmp_path / "second", bundle.task, bundle.codec, tiny_llama_untied, [], {})


@pytest.fixture
def pointer(bundle: Bundle, second: Bundle, tmp_path: Path) -> Path:
    """Points to `second`, before it `bundle`."""
    path = tmp_path / "live.json"
    release(path, bundle=bundle.folder, change=Change(), ungated=True)
    release(path, bundle=second.folder, change=Change(canary=0.5, canary_s=9.0, keep_s=7.0), ungated=True)
    return path


def turn(pointer: Path, refused: Bundle) -> bool:
    previous = read_pointer(pointer).previous
    assert previous is not None
    return refuse(pointer, refused=Refused.now(refused.id, WHY), back=previous)


def test_a_refused_bundle_is_neither_served_nor_rolled_back_to(pointer: Path, bundle: Bundle, second: Bundle) -> None:
    assert turn(pointer, second)
    found = read_pointer(pointer)
    assert found.refused is not None
    assert (found.current.id, found.previous, found.refused.id, found.refused.why) == (
        bundle.id, None, second.id, WHY
    )
    assert (found.change, found.at) == (Change(keep_s=7.0), found.refused.at)
    assert str(pointer.parent) not in pointer.read_text()  # the folder as a whole can still be moved
    with pytest.raises(InputError, match=f"nothing was released before. {second.id} was refused, and {bundle.id} is"):
        rollback(pointer)


def test_a_refused_bundle_can_be_released_again(pointer: Path, bundle: Bundle, second: Bundle) -> None:
    turn(pointer, second)
    release(pointer, bundle=bundle.folder, change=Change(), ungated=True)  # what is served: nothing changes
    assert read_pointer(pointer).refused is not None
    release(pointer, bundle=second.folder, change=Change(), ungated=True)
    found = read_pointer(pointer)
    assert found.previous is not None
    assert (found.current.id, found.previous.id, found.refused) == (second.id, bundle.id, None)
    assert rollback(pointer).current.id == bundle.id


def test_a_pointer_that_was_changed_meanwhile_stays(pointer: Path, bundle: Bundle, second: Bundle) -> None:
    served = read_pointer(pointer).previous
    assert served is not None
    rollback(pointer)
    before = pointer.read_text()
    assert not refuse(pointer, refused=Refused.now(second.id, WHY), back=served)
    assert pointer.read_text() == before
    pointer.unlink()
    with pytest.raises(InputError, match="no release pointer here"):
        refuse(pointer, refused=Refused.now(second.id, WHY), back=served)


def test_a_refusal_waits_for_a_release_under_way(pointer: Path, bundle: Bundle, second: Bundle) -> None:
    done: list[bool] = []
    thread = Thread(target=lambda: done.append(turn(pointer, second)))
    with kept_bundles.lock(pointer):
        thread.start()
        thread.join(0.3)
        assert (done, read_pointer(pointer).current.id) == ([], second.id)
        row = read_json(pointer)
        write_json(pointer, row | {"current": row["previous"], "previous": row["current"]})
    thread.join()
    assert (done, read_pointer(pointer).current.id) == ([False], bundle.id)


def test_a_pointer_without_a_refusal_is_as_before(pointer: Path, bundle: Bundle) -> None:
    row = read_json(pointer)
    assert row.keys() == {"format", "current", "previous", "change", "at"}
    assert row["change"].keys() == {"shadow", "shadow_s", "canary", "canary_s", "keep_s"}
    assert Serving().model_dump(mode="json")["change"].keys() == row["change"].keys()  # nor are stages made again
    assert read_pointer(pointer).previous == Release(
        bundle=pointer.with_name("live.json.bundles") / bundle.id, id=bundle.id
    )


def own(folder: Path, bundle: Bundle, tiny_llama: Path, **change: Any) -> Bundle:
    task = make_task(serving={"change": change})
    return build(folder, task, bundle.codec, tiny_llama, [], {})


def test_what_is_not_given_is_the_bundles_own(bundle: Bundle, tmp_path: Path, tiny_llama: Path) -> None:
    change = {"canary": 0.2, "canary_s": 60.0, "watch_s": 30.0, "bounds": {"slower": None, "errors": 0.02}}
    new, pointer = own(tmp_path / "own", bundle, tiny_llama, **change), tmp_path / "live.json"
    done = in_process("release", new.folder, pointer, "--ungated", "--canary", "0.4", "--keep-s", "5")
    assert done.returncode == 0, done.stderr
    found = read_pointer(pointer).change
    assert found == Change(
        canary=0.4, canary_s=60.0, watch_s=30.0, keep_s=5.0, bounds=Bounds(slower=None, errors=0.02)
    )
    other = tmp_path / "other.json"
    done = in_process("release", bundle.folder, other, "--ungated")
    assert (done.returncode, read_pointer(other).change) == (0, Change())


def test_options_that_contradict_the_bundle_are_told(bundle: Bundle, tmp_path: Path, tiny_llama: Path) -> None:
    new = own(tmp_path / "own", bundle, tiny_llama, canary=0.2, canary_s=60.0, watch_s=30.0)
    for given in ({"canary": 0.0}, {"canary": 2.0}):
        with pytest.raises(InputError, match=r"own: serving\.change.*canary"):
            release(tmp_path / "live.json", bundle=new.folder, change=given, ungated=True)
    assert not (tmp_path / "live.json").exists()

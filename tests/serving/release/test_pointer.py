from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from serving.release.bundle import Bundle, build, open_bundle, stamp
from serving.release.pointer import Pointer, Release, Seen, open_source, read_pointer, release, rollback
from serving.supervisor.supervisor import Supervisor
from task.errors import InputError
from task.files import read_json, write_json
from task.serving_settings import Change
from tests.conftest import make_task
from tests.limbeck.test_cli import in_process

GOOD = {"rule": "min_f1", "ok": True, "text": "F1 95.0 % (gate min_f1: at least 90 %)"}


def test_releases_follow_each_other_and_turn_back(bundle: Bundle, tmp_path: Path, tiny_llama_untied: Path) -> None:
    second = build(tmp_path / "second", bundle.task, bundle.codec, tiny_llama_untied, [], {})
    for passed in (bundle, second):
        stamp(passed.folder, [GOOD])
    pointer = tmp_path / "live.json"
    assert release(pointer, bundle=bundle.folder, change=Change()).previous is None
    release(pointer, bundle=bundle.folder, change=Change())  # the same again changes nothing
    release(pointer, bundle=second.folder, change=Change(canary=0.1, canary_s=5.0))
    found = read_pointer(pointer)
    assert found.previous is not None
    assert (found.current.id, found.previous.id, found.change.canary) == (second.id, bundle.id, 0.1)
    assert str(tmp_path) not in pointer.read_text()  # the folder as a whole can be moved
    back = rollback(pointer)
    assert (back.current.id, read_pointer(pointer).change.canary) == (bundle.id, 0.0)
    assert rollback(pointer).current.id == second.id
    said = " ".join(in_process("rollback", pointer).stdout.split())
    assert f"{bundle.id} again, in place of {second.id}. A second rollback would return to {second.id}" in said


def test_what_has_changed_since_it_was_seen_stays(bundle: Bundle, tmp_path: Path, tiny_llama_untied: Path) -> None:
    second = build(tmp_path / "second", bundle.task, bundle.codec, tiny_llama_untied, [], {})
    pointer, nothing = tmp_path / "live.json", Seen.of(None)
    release(pointer, bundle=bundle.folder, change=Change(), ungated=True, seen=nothing)
    first = Seen.of(read_pointer(pointer))
    assert first == (bundle.id, "")
    for stale in (nothing, Seen(second.id, ""), Seen(bundle.id, second.id)):
        with pytest.raises(InputError, match="somebody has released or rolled back meanwhile"):
            release(pointer, bundle=second.folder, change=Change(), ungated=True, seen=stale)
    with pytest.raises(InputError, match=f"another bundle here by now; found '{second.id}'; expected {bundle.id}"):
        release(pointer, bundle=second.folder, change=Change(), ungated=True, seen=first, only=bundle.id)
    release(pointer, bundle=second.folder, change=Change(), ungated=True, seen=first, only=second.id)
    with pytest.raises(InputError, match=f"found '{second.id}, before it {bundle.id}'; expected {bundle.id}"):
        rollback(pointer, seen=first)
    both = Seen.of(read_pointer(pointer))
    assert rollback(pointer, seen=both).current.id == bundle.id
    with pytest.raises(InputError, match="meanwhile"):
        rollback(pointer, seen=both)  # of two people at once, the second


def of_before(pointer: Path, current: Bundle, previous: Bundle | None = None) -> None:
    """Write a pointer as it was before bundles were kept beside it: it names the folder of each."""
    def named(bundle: Bundle | None) -> Release | None:
        return Release(bundle=bundle.folder.relative_to(pointer.parent), id=bundle.id) if bundle else None

    now, before = named(current), named(previous)
    assert now is not None
    write_json(pointer, Pointer(current=now, previous=before, at="2026-11-01T00:00:00+00:00").model_dump(mode="json"))


def test_it_is_not_turned_back_to_a_folder_that_holds_another_bundle_now(
    bundle: Bundle, tmp_path: Path, tiny_llama_untied: Path
) -> None:
    pointer, folder = tmp_path / "live.json", tmp_path / "first"
    first = build(folder, bundle.task, bundle.codec, tiny_llama_untied, [], {})
    of_before(pointer, bundle, previous=first)
    shutil.rmtree(folder)
    shutil.copytree(bundle.folder, folder)
    with pytest.raises(InputError, match=f"not the one that was released; found '{bundle.id}'; expected {first.id}"):
        rollback(pointer)
    assert read_pointer(pointer).current.id == bundle.id


def test_a_service_does_not_start_with_what_nobody_released(
    bundle: Bundle, tmp_path: Path, tiny_llama_untied: Path
) -> None:
    """The folder that the pointer names was made again since."""
    pointer, folder = tmp_path / "live.json", tmp_path / "folder"
    of_before(pointer, build(folder, bundle.task, bundle.codec, tiny_llama_untied, [], {}))
    shutil.rmtree(folder)
    shutil.copytree(bundle.folder, folder)
    with pytest.raises(InputError, match=f"not the one that was released; found '{bundle.id}'"):
        Supervisor(pointer, state=tmp_path / "state")


def test_a_pointer_of_before_opens_and_is_released_to(bundle: Bundle, tmp_path: Path, tiny_llama_untied: Path) -> None:
    pointer, kept = tmp_path / "live.json", tmp_path / "live.json.bundles"
    second = build(tmp_path / "second", bundle.task, bundle.codec, tiny_llama_untied, [], {})
    of_before(pointer, second, previous=bundle)
    assert open_source(pointer).folder == second.folder
    assert rollback(pointer).current == Release(bundle=bundle.folder, id=bundle.id)
    again = release(pointer, bundle=bundle.folder, change=Change(), ungated=True)  # from now on it is kept
    assert again.current == Release(bundle=kept / bundle.id, id=bundle.id)
    assert again.previous == Release(bundle=second.folder, id=second.id)


def test_a_pointer_is_of_one_task(bundle: Bundle, tmp_path: Path, tiny_llama_untied: Path) -> None:
    other = build(tmp_path / "other", make_task(name="other"), bundle.codec, tiny_llama_untied, [], {})
    pointer = tmp_path / "live.json"
    release(pointer, bundle=bundle.folder, change=Change(), ungated=True)
    with pytest.raises(InputError, match="another task; found 'other'; expected toy"):
        release(pointer, bundle=other.folder, change=Change(), ungated=True)
    assert read_pointer(pointer).current.id == bundle.id
    shutil.rmtree(read_pointer(pointer).current.bundle)  # what was released has gone: nothing to compare with
    release(pointer, bundle=other.folder, change=Change(), ungated=True)
    assert read_pointer(pointer).current.id == other.id


def test_what_is_not_fit_is_not_released(bundle: Bundle, tmp_path: Path) -> None:
    pointer = tmp_path / "live.json"
    with pytest.raises(InputError, match="no release pointer"):
        rollback(pointer)
    (bundle.folder / "codec.json").write_text("{}")
    with pytest.raises(InputError, match=r"codec\.json is changed"):
        release(pointer, bundle=bundle.folder, change=Change())
    assert not pointer.exists()


def test_a_pointer_that_is_none_is_said_to_be(bundle: Bundle, tmp_path: Path) -> None:
    pointer = tmp_path / "live.json"
    pointer.write_text("{}")
    with pytest.raises(InputError, match="not a release pointer"):
        read_pointer(pointer)
    pointer.unlink()
    release(pointer, bundle=bundle.folder, change=Change(), ungated=True)
    with pytest.raises(InputError, match="nothing was released before"):
        rollback(pointer)


def test_only_what_the_gate_has_passed_is_released(bundle: Bundle, tmp_path: Path) -> None:
    pointer = tmp_path / "live.json"
    with pytest.raises(InputError, match="no gate has judged it"):
        release(pointer, bundle=bundle.folder, change=Change())
    stamp(bundle.folder, [GOOD, GOOD | {"ok": False, "text": "too slow"}])
    with pytest.raises(InputError, match="did not pass: too slow"):
        release(pointer, bundle=bundle.folder, change=Change())
    assert not pointer.exists()
    stamp(bundle.folder, [GOOD])
    assert open_bundle(bundle.folder).id == bundle.id  # the verdict is about the content, not part of it
    manifest = bundle.folder / "manifest.json"
    kept = read_json(manifest)
    write_json(manifest, kept | {"gate": kept["gate"] | {"bundle": "000000000000"}})
    with pytest.raises(InputError, match="judged other content"):
        release(pointer, bundle=bundle.folder, change=Change())
    write_json(manifest, kept)
    assert release(pointer, bundle=bundle.folder, change=Change()).current.id == bundle.id

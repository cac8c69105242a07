"""What a round makes of what a service says; `test_round` has a real service."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from limbeck.progress_display import ProgressDisplay
from limbeck.rounds import release as module
from limbeck.rounds.release import Released, release_and_watch
from limbeck.run import Run
from serving.release.bundle import Bundle, build, stamp
from serving.release.pointer import Refused, read_pointer, release, rollback
from task.errors import ComponentError, InputError
from task.files import read_json, write_json
from task.progress import quiet
from task.serving_settings import Change
from tests.conftest import make_task
from tests.serving.conftest import bundle, form

__all__ = ["bundle", "form"]
GOOD = {"rule": "min_f1", "ok": True, "text": "F1 95.0 % (gate min_f1: at least 90 %)"}


@pytest.fixture
def new(bundle: Bundle, tmp_path: Path, tiny_llama_untied: Path) -> Bundle:
    """A bundle that passed its gate, beside the one that is released."""
    found = build(tmp_path / "new", bundle.task, bundle.codec, tiny_llama_untied, [], {})
    for passed in (bundle, found):
        stamp(passed.folder, [GOOD])
    release(tmp_path / "live.json", bundle=bundle.folder, change=Change())
    return found


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The state folder of a service that holds its lock."""
    monkeypatch.setattr(module, "_POLL_S", 0.01)
    monkeypatch.setattr(module, "_LOOK_S", 0.05)
    (tmp_path / "state").mkdir()
    with FileLock(tmp_path / "state" / "lock"):
        yield tmp_path / "state"


def says(state: Path, active: str, *news: str) -> None:
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    write_json(state / "status.json", {
        "tasks": {"toy": {"active": {"bundle": active}}}, "news": [{"at": at, "text": n, "failed": True} for n in news],
    })


def released(new: Bundle, before: Bundle, folder: Path, **change: Any) -> Released:
    task = make_task(serving={"change": change})
    run = Run.of(task, folder / "runs", ProgressDisplay())
    return release_and_watch(
        run, new.folder, folder / "live.json", state=folder / "state", before=before.id, progress=quiet
    )


def test_without_a_service_the_pointer_is_all_that_changes(bundle: Bundle, new: Bundle, tmp_path: Path) -> None:
    found = released(new, bundle, tmp_path, canary=0.1, canary_s=1_000.0)
    assert found.served
    assert "no service runs" in found.why
    assert read_pointer(tmp_path / "live.json").current.id == new.id
    assert released(new, bundle, tmp_path).served  # after it was killed


def test_what_a_service_serves_is_released(bundle: Bundle, new: Bundle, service: Path, tmp_path: Path) -> None:
    says(service, new.id)
    assert released(new, bundle, tmp_path) == Released(True, f"{new.id} is served")


def test_a_refusal_is_the_end_in_the_service_s_words(
    bundle: Bundle, new: Bundle, service: Path, tmp_path: Path
) -> None:
    says(service, bundle.id)

    def refuse() -> None:
        pointer = tmp_path / "live.json"
        while read_pointer(pointer).current.id != new.id:
            pass
        now = read_json(pointer)
        write_json(pointer, {
            **now, "current": now["previous"], "previous": None,
            "refused": Refused.now(new.id, "abstained on 31 %").model_dump(mode="json"),
        })

    other = threading.Thread(target=refuse)
    other.start()
    assert released(new, bundle, tmp_path) == Released(False, "abstained on 31 %")
    other.join()
    assert released(new, bundle, tmp_path) == Released(False, "abstained on 31 %")  # after it was killed


def test_a_service_that_cannot_change_keeps_the_old_bundle(
    bundle: Bundle, new: Bundle, service: Path, tmp_path: Path
) -> None:
    release(tmp_path / "live.json", bundle=new.folder, change=Change())
    says(service, bundle.id, "not changed: the engine ended with exit code 1")
    found = released(new, bundle, tmp_path)
    assert not found.served
    assert "the engine ended with exit code 1" in found.why
    assert read_pointer(tmp_path / "live.json").current.id == bundle.id


def test_a_service_that_ends_meanwhile_is_an_error(
    bundle: Bundle, new: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.01)
    monkeypatch.setattr(module, "_LOOK_S", 0.05)
    release(tmp_path / "live.json", bundle=new.folder, change=Change())
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "lock").touch()  # which nobody holds any more
    says(tmp_path / "state", bundle.id)
    with pytest.raises(ComponentError, match="has not changed to"):
        module._watched(
            tmp_path / "live.json", new.id, Change(), state=tmp_path / "state", task="toy", progress=quiet
        )


def test_what_an_operator_rolled_back_is_not_released_again(bundle: Bundle, new: Bundle, tmp_path: Path) -> None:
    assert released(new, bundle, tmp_path).served
    rollback(tmp_path / "live.json")
    found = released(new, bundle, tmp_path)  # the round was killed before it could say that it had ended
    assert not found.served
    assert found.why.startswith("it was rolled back")
    assert read_pointer(tmp_path / "live.json").current.id == bundle.id


def test_what_somebody_released_meanwhile_is_not_replaced(bundle: Bundle, new: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another bundle was released since the round began"):
        release_and_watch(
            Run.of(make_task(), tmp_path / "runs", ProgressDisplay()), new.folder, tmp_path / "live.json",
            state=tmp_path / "state", before="what there was", progress=quiet,
        )
    assert read_pointer(tmp_path / "live.json").current.id == bundle.id

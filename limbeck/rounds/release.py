"""Release the student of a round, and wait until the service serves it or has refused it."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from limbeck.run import Run
from serving.release.pointer import Pointer, read_pointer, release, rollback
from task.errors import ComponentError, InputError
from task.files import read_json
from task.progress import Progress
from task.serving_settings import Change

_POLL_S: Final = 0.5
_LOOK_S: Final = 20.0  # between two looks at whether the service runs: each takes its lock for a moment
_START_S: Final = 900.0
"""For the new engine to start, and for requests in flight to end: beside the time of shadow, canary and watch."""


@dataclass(frozen=True, slots=True)
class Released:
    """How a release ended.

    Attributes:
        served: Whether the new bundle is the released one now.
        why: A sentence.
    """

    served: bool
    why: str


def release_and_watch(
    run: Run, bundle: Path, pointer: Path, *, state: Path, before: str, progress: Progress
) -> Released:
    """Point to a bundle as `serving.change` of the task says, and wait for what a service makes of it.

    Can be called again after it was killed: what is released already is not released again.

    Args:
        before: Id of the bundle that the round began with.
        state: The state folder of the service; where none is running, the pointer is all that changes.

    Raises:
        InputError: Another bundle was released since the round began.
        ComponentError: The service does not change to the new bundle, and does not say why.
    """
    change = run.task.serving.change
    new = str(read_json(bundle / "manifest.json")["id"])
    now = read_pointer(pointer)
    if refusal := _refusal(now, new):
        return Released(False, refusal)
    if now.current.id != new:
        if now.previous is not None and now.previous.id == new:
            return Released(False, f"it was rolled back: {pointer} points to {now.current.id}")
        if now.current.id != before:
            raise InputError(
                "another bundle was released since the round began", file=pointer, found=now.current.id,
                expected=before,
                fix="End this round with `limbeck round TASK --give-up`, and begin another",
            )
        release(pointer, bundle=bundle, change=change)
    if not is_running(state):
        return Released(True, f"{new} is released; no service runs from {state}, so that no canary was tried")
    return _watched(pointer, new, change, state=state, task=run.task.name, progress=progress)


def is_running(state: Path) -> bool:
    """Whether a service runs from a state folder."""
    if not (state / "lock").exists():
        return False
    try:
        with FileLock(state / "lock", timeout=0):
            return False
    except Timeout:
        return True


def _watched(
    pointer: Path, new: str, change: Change, *, state: Path, task: str, progress: Progress
) -> Released:
    """Wait for the end of shadow, canary and watch."""
    seconds = change.shadow_s + change.canary_s
    progress.begin(f"the service changes to {new}")
    until = time.monotonic() + seconds + _START_S
    look = time.monotonic() + _LOOK_S
    after: float | None = None  # when the watch after the switch ends
    while True:
        now = read_pointer(pointer)
        if refusal := _refusal(now, new):
            return Released(False, refusal)
        if now.current.id != new:
            return Released(False, f"{pointer} points to {now.current.id} now: somebody has released or rolled back")
        status = _status(state, task)
        if (status.get("active") or {}).get("bundle") == new:
            if after is None:
                after = time.monotonic() + change.watch_s
                watched = f" and watched for {change.watch_s:g} s" if change.watch_s else ""
                progress.begin(f"{new} is served{watched}")
            if time.monotonic() >= after:
                return Released(True, f"{new} is served")
        elif failure := _failure(state, now):
            rollback(pointer)
            return Released(False, f"the service could not change to it: {failure}")
        elif time.monotonic() >= until or (time.monotonic() >= look and not is_running(state)):
            raise ComponentError(
                f"the service has not changed to {new}: see `limbeck status` and {state}; run the same command again "
                "to wait for it, or `limbeck rollback`"
            )
        elif time.monotonic() >= look:
            look = time.monotonic() + _LOOK_S
        time.sleep(_POLL_S)


def _refusal(pointer: Pointer, new: str) -> str | None:
    """Why a service refused the bundle in its canary, or while it watched it; None where none did."""
    found = pointer.refused
    return found.why if found is not None and found.id == new else None


def _status(state: Path, task: str) -> dict[str, Any]:
    """What the service last said of the task; nothing where it says nothing."""
    try:
        found: dict[str, Any] = read_json(state / "status.json")["tasks"].get(task) or {}
    except (OSError, ValueError, KeyError):
        return {}
    return found


def _failure(state: Path, pointer: Pointer) -> str | None:
    """What the service says of a change that it gave up since the release; None where it did not."""
    try:
        news = read_json(state / "status.json")["news"]
    except (OSError, ValueError, KeyError):
        return None
    since = datetime.datetime.fromisoformat(pointer.at)
    said = [
        str(n["text"]) for n in news
        if n.get("failed") and n["text"].startswith("not changed") and datetime.datetime.fromisoformat(n["at"]) >= since
    ]
    return said[-1] if said else None

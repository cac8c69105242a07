"""The release pointer: a small file that says which bundle is served, and which one was before.

`limbeck release` writes it, `limbeck rollback` turns it round, and a service that was started with it follows.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from pydantic import ValidationError

from serving.release.bundle import gated, open_bundle
from task.errors import InputError
from task.files import read_json, write_json
from task.serving_settings import Change
from task.settings import Strict

FORMAT = 1


class Release(Strict):
    """A bundle, by its place and its id."""

    bundle: Path
    id: str


class Pointer(Strict):
    """What the file holds; paths are relative to it."""

    format: int = FORMAT
    current: Release
    previous: Release | None = None
    change: Change = Change()
    at: str


def read_pointer(path: Path) -> Pointer:
    """Read a pointer, its paths made absolute.

    Raises:
        InputError: No such file, or not a pointer.
    """
    if not path.is_file():
        raise InputError("no release pointer here", file=path, fix="`limbeck release BUNDLE POINTER` makes one")
    try:
        found = Pointer.model_validate(read_json(path))
    except (ValidationError, ValueError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InputError(f"not a release pointer: {what}", file=path, fix="Write it with `limbeck release`") from error
    if found.format != FORMAT:
        raise InputError("a pointer of another format", file=path, found=found.format, expected=str(FORMAT))

    def absolute(release: Release) -> Release:
        return release.model_copy(update={"bundle": (path.parent / release.bundle).resolve()})

    previous = absolute(found.previous) if found.previous else None
    return found.model_copy(update={"current": absolute(found.current), "previous": previous})


def release(path: Path, folder: Path, change: Change, *, ungated: bool = False) -> Pointer:
    """Point to a bundle, once everything in it has been verified and the gate has passed it.

    Args:
        ungated: Release it whatever the gate says.

    Raises:
        InputError: The bundle is not fit to be served, or has not passed; the pointer stays as it was.
    """
    bundle = open_bundle(folder)
    reason = None if ungated else gated(bundle)
    if reason is not None:
        raise InputError(
            f"the bundle is not released: {reason}", file=folder, expected="a bundle that `limbeck gate` has passed",
            fix="Run `limbeck gate BUNDLE --gold FILE`, or release it all the same with --ungated",
        )
    new = Release(bundle=folder.resolve(), id=bundle.id)
    old = read_pointer(path) if path.exists() else None
    if old is not None and old.current == new:
        return old
    return _write(path, Pointer(current=new, previous=old.current if old else None, change=change, at=_now()))


def rollback(path: Path) -> Pointer:
    """Point to the bundle that was served before; it takes over without a trial.

    Raises:
        InputError: There is none, or it is not fit to be served.
    """
    now = read_pointer(path)
    if now.previous is None:
        raise InputError("nothing was released before", file=path, field="previous")
    found = open_bundle(now.previous.bundle)
    if found.id != now.previous.id:
        raise InputError(
            "another bundle stands where the previous one was", file=now.previous.bundle, found=found.id,
            expected=now.previous.id, fix="Release the one that you want with `limbeck release`",
        )
    return _write(path, Pointer(
        current=now.previous, previous=now.current, change=Change(keep_s=now.change.keep_s), at=_now()
    ))


def _write(path: Path, pointer: Pointer) -> Pointer:
    def relative(release: Release) -> Release:
        return release.model_copy(update={"bundle": Path(os.path.relpath(release.bundle, path.parent.resolve()))})

    previous = relative(pointer.previous) if pointer.previous else None
    kept = pointer.model_copy(update={"current": relative(pointer.current), "previous": previous})
    write_json(path, kept.model_dump(mode="json"))
    return pointer


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

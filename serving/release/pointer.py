"""The release pointer: a small file that names the bundle that is served and the previous one.

`limbeck release` writes it, `limbeck rollback` swaps the two, and a service that was started with it follows it. The
bundles are kept beside it (`serving.release.kept_bundles`); pointers of before name them wherever they lie.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from serving.release import kept_bundles
from serving.release.bundle import Bundle, gate_failure, open_bundle
from serving.release.verdict import in_words, overridden
from task.errors import InputError, warn
from task.files import read_json, write_json
from task.serving_settings import Change
from task.settings import Strict

FORMAT = 1


class Release(Strict):
    """A bundle, by its path and its id."""

    bundle: Path
    id: str


class Refused(Strict):
    """A bundle that a service has taken out of service by itself.

    Attributes:
        id: The bundle.
        why: The bound of `serving.change.bounds` that it left, with figures; its subject is the bundle.
        at: When, in UTC as ISO 8601.
    """

    id: str
    why: str
    at: str

    @classmethod
    def now(cls, bundle: str, why: str) -> Refused:
        """A bundle that is refused at this moment."""
        return cls(id=bundle, why=why, at=_now())


class Pointer(Strict):
    """The content of the file; paths are relative to its folder.

    Attributes:
        refused: The bundle that was released in place of `current`, and refused; the next release forgets it.
    """

    format: int = FORMAT
    current: Release
    previous: Release | None = None
    change: Change = Change()
    at: str
    refused: Refused | None = Field(default=None, exclude_if=lambda value: value is None)


class Seen(NamedTuple):
    """What somebody saw a pointer name when they decided to change it: ids of bundles, empty where it named none."""

    current: str
    previous: str

    @classmethod
    def of(cls, pointer: Pointer | None) -> Seen:
        """What a pointer names; None is one that is not there yet."""
        previous = pointer.previous if pointer is not None else None
        return cls(pointer.current.id if pointer is not None else "", previous.id if previous is not None else "")


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


def open_released(release: Release) -> Bundle:
    """Open the bundle that was released.

    Raises:
        InputError: As `open_bundle`, or the folder holds another bundle now, which nobody released.
    """
    found = open_bundle(release.bundle)
    if found.id != release.id:
        raise InputError(
            "the bundle in this folder is not the one that was released", file=release.bundle, found=found.id,
            expected=release.id, fix="Release the one that you want with `limbeck release`",
        )
    return found


def open_source(source: Path) -> Bundle:
    """The bundle in a folder, or the one that a pointer names. Raises as `open_bundle` and `open_released`."""
    return open_bundle(source) if source.is_dir() else open_released(read_pointer(source).current)


def release(
    pointer: Path, *, bundle: Path, change: Change | Mapping[str, float], ungated: bool = False,
    seen: Seen | None = None, only: str | None = None,
) -> Pointer:
    """Keep a bundle beside the pointer and point to it, after its files have been verified and if it passed the gate.

    Bundles are removed that neither this pointer nor the one before it names. A process that is killed in the middle
    leaves the pointer as it was, or as it is to be.

    Args:
        pointer: The file to write.
        bundle: The bundle's folder.
        change: How running services change to it; or the fields in which that differs from the bundle's own
            `serving.change`.
        ungated: Release it even if it has not passed the gate.
        seen: What the pointer must still name; None for whatever it names.
        only: Id that the bundle must have; None for any.

    Raises:
        InputError: The bundle is not fit to be served, has not passed, or is of another task than the one that is
            released, or a field of `change` is not valid, or what was seen has changed; the pointer stays as it was.
    """
    opened = open_bundle(bundle)
    if only not in (None, opened.id):
        raise InputError("there is another bundle here by now", file=bundle, found=opened.id, expected=only)
    wanted = change if isinstance(change, Change) else change_of(opened.task.serving.change, change, bundle)
    reason = gate_failure(opened)
    if reason is not None and not ungated:
        raise InputError(
            f"the bundle is not released: {reason}", file=bundle, expected="a bundle that has passed `limbeck gate`",
            fix="Run `limbeck gate BUNDLE --gold FILE`, or release it anyway with --ungated",
        )
    if reason is not None:
        warn(f"bundle {opened.id} is released without having passed its gate: {reason}", file=bundle)
    elif changed := overridden(opened):
        warn(f"bundle {opened.id} passed its gate with {in_words(changed)}", file=bundle)
    with kept_bundles.lock(pointer):
        old = read_pointer(pointer) if pointer.exists() else None
        _check_unchanged(pointer, old, seen)
        served = _task_name(old.current) if old else None
        if served not in (None, opened.task.name):
            raise InputError(
                "a bundle of another task", file=pointer, found=opened.task.name, expected=served,
                fix="Give each task a pointer of its own. Two settings of one task have one `name`, and run folders of "
                "their own with --runs",
            )
        current = Release(bundle=kept_bundles.keep(opened, pointer), id=opened.id)
        if old is not None and old.current.id == current.id:
            new = old.model_copy(update={"current": current})
        else:
            new = Pointer(current=current, previous=old.current if old else None, change=wanted, at=_now())
        if new != old:
            _write(pointer, new)
        kept_bundles.remove_others(pointer, {
            x.bundle for one in (old, new) if one is not None for x in (one.current, one.previous) if x is not None
        })
        return new


def rollback(path: Path, *, seen: Seen | None = None) -> Pointer:
    """Point to the previous bundle; running services change to it without shadow or canary.

    Args:
        seen: What the pointer must still name; None for whatever it names.

    Raises:
        InputError: There is none, or it is damaged, or what was seen has changed.
    """
    if not path.is_file():
        read_pointer(path)  # raises; without a pointer no folder for its bundles is made
    with kept_bundles.lock(path):
        now = read_pointer(path)
        _check_unchanged(path, now, seen)
        if now.previous is None:
            refused = None if now.refused is None else (
                f"{now.refused.id} was refused, and {now.current.id} is served again. `limbeck release` releases any "
                "bundle"
            )
            raise InputError("nothing was released before", file=path, field="previous", fix=refused)
        open_released(now.previous)
        return _write(path, Pointer(
            current=now.previous, previous=now.current, change=Change(keep_s=now.change.keep_s), at=_now()
        ))


def refuse(path: Path, *, refused: Refused, back: Release) -> bool:
    """Point to the bundle that was served before a refused one, so that every service and every restart serves it.

    Nothing is `previous` then: a rollback would return to the refused bundle.

    Args:
        refused: The bundle that the pointer names, and why it is refused.
        back: The bundle to serve; a service runs it, so that it is not verified again.

    Returns:
        Whether the pointer has been written: it stays where it names another bundle by now.

    Raises:
        InputError: There is no pointer any more.
        OSError: It cannot be written.
    """
    if not path.is_file():
        read_pointer(path)  # raises
    with kept_bundles.lock(path):
        now = read_pointer(path)
        if now.current.id != refused.id:
            return False
        _write(path, Pointer(current=back, change=Change(keep_s=now.change.keep_s), at=refused.at, refused=refused))
        return True


def _check_unchanged(path: Path, now: Pointer | None, seen: Seen | None) -> None:
    """Raise `InputError` if a pointer names other bundles than those that somebody saw."""
    found = Seen.of(now)
    if seen is not None and found != seen:
        raise InputError(
            "somebody has released or rolled back meanwhile", file=path, found=", before it ".join(filter(None, found)),
            expected=", before it ".join(filter(None, seen)) or "no pointer", fix="Look at it again, then decide",
        )


def change_of(own: Change, given: Mapping[str, float], bundle: Path) -> Change:
    """A bundle's own settings of a change with some fields replaced. Raises `InputError` where they do not fit.

    Args:
        bundle: Its folder, for the message.
    """
    try:
        return Change.model_validate(own.model_dump() | dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            first["msg"].removeprefix("Value error, "), file=bundle,
            field=f"serving.change{'.' + where if where else ''}", found=dict(given) or None,
            fix="Give the options of `limbeck release` that belong together",
        ) from error


def _task_name(release: Release) -> str | None:
    """The name of a released bundle's task; None where its folder has gone or is none."""
    try:
        return str(read_json(release.bundle / "task.json")["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, pointer: Pointer) -> Pointer:
    def relative(release: Release) -> Release:
        return release.model_copy(update={"bundle": Path(os.path.relpath(release.bundle, path.parent.resolve()))})

    previous = relative(pointer.previous) if pointer.previous else None
    kept = pointer.model_copy(update={"current": relative(pointer.current), "previous": previous})
    write_json(path, kept.model_dump(mode="json"))
    return pointer


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

"""The bundles that a pointer can need, kept in a folder beside it: `live.json.bundles/ID`.

The folder that a bundle was released from may be written again, as that of a run is by the next `limbeck bundle`. Here
its files are hard links, which take no space, and stay what they are when the files that they were linked to are
replaced or removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from filelock import FileLock

from serving.release.bundle import Bundle, open_bundle
from task.errors import InputError
from task.files import link_or_copy, sha256_file, write_json

_LOCK = "lock"


def folder_of(pointer: Path) -> Path:
    """Where a pointer's bundles are kept."""
    return pointer.with_name(f"{pointer.name}.bundles")


def lock(pointer: Path) -> FileLock:
    """Held by a release: of two at once, one would remove what the other is about to point to."""
    folder_of(pointer).mkdir(parents=True, exist_ok=True)
    return FileLock(folder_of(pointer) / _LOCK)


def keep(bundle: Bundle, pointer: Path) -> Path:
    """Keep an opened bundle for a pointer; returns its folder.

    The folder appears under its name when it is complete. Where the pointer lies on another file system, the files are
    copied.

    Raises:
        InputError: A file has changed since the bundle was opened.
    """
    target = folder_of(pointer).resolve() / bundle.id
    if target != bundle.folder.resolve():
        if not _intact(target):
            _replace(bundle, target)
        write_json(target / "manifest.json", dict(bundle.manifest))  # the same content may have been judged since
    return target


def remove_others(pointer: Path, needed: Collection[Path]) -> None:
    """Remove what is kept for a pointer and neither needed nor held, and what a killed process left."""
    for path in folder_of(pointer).resolve().iterdir():
        if path.name != _LOCK and path not in needed and not is_held(path):
            shutil.rmtree(path, ignore_errors=True)


def hold(folder: Path) -> int:
    """Keep a bundle from being removed until this file descriptor is closed, or the process ends.

    A service serves what it has for as long as what was released since does not start, however many releases that is.
    """
    handle = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # a file system without such locks
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return handle


def is_held(folder: Path) -> bool:
    """Whether a process holds a bundle; also where the file system cannot tell."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _intact(folder: Path) -> bool:
    try:
        open_bundle(folder)
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _replace(bundle: Bundle, target: Path) -> None:
    made = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(made, ignore_errors=True)  # of a killed process with this id: its links must not be written into
    try:
        for name, digest in bundle.manifest["files"].items():
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            linked = link_or_copy(bundle.folder / name, target=path)
            if not linked and sha256_file(path) != digest:
                raise InputError(f"the bundle is damaged: {name} is changed", file=bundle.folder)
        write_json(made / "manifest.json", dict(bundle.manifest))
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)

"""Atomic writing of files, and SHA-256 fingerprints."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from task.text import one_line


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """Hex SHA-256 of a value's canonical JSON (sorted keys, no spaces)."""
    return sha256_text(canonical_json(value))


def sha256_text(text: str) -> str:
    """Hex SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def canonical_json(value: object) -> str:
    """The canonical JSON text of a value: keys sorted, no spaces, no escapes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name and rename, so that no reader ever sees an incomplete file."""
    write_parts(path, [text])


def write_parts(path: Path, parts: Iterable[str]) -> int:
    """`write_text` a part at a time; returns the number of parts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            count = 0
            for part in parts:
                file.write(part)
                count += 1
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        return count
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """JSON lines, atomically and a row at a time; returns the number of rows."""
    return write_parts(path, (one_line(json.dumps(row, ensure_ascii=False, allow_nan=False)) + "\n" for row in rows))


def link_or_copy(source: Path, *, target: Path) -> bool:
    """Give a file a second name: a hard link where the file system can, else a copy; returns whether it is a link.

    Nothing may have that name yet: a copy would be written into what is there, and into all that it is linked to.
    """
    try:
        target.hardlink_to(source.resolve())  # Linux would link to a symbolic link itself
    except OSError:
        shutil.copy2(source, target)
        return False
    return True


def read_json(path: Path) -> Any:
    """The value of a JSON file that we wrote ourselves."""
    return json.loads(path.read_text(encoding="utf-8"))

"""API keys: the file that holds them, and the look-up of a presented key.

A key is `lk_NAME_SECRET`; the file holds its SHA-256, never the key. The name finds the row, the digest is compared in
constant time. A key of 256 random bits needs no slow hash, because it cannot be guessed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from task.errors import InputError
from task.files import read_json, write_json
from task.settings import Positive, Strict

_KEY = re.compile(r"lk_([a-z0-9-]{1,40})_([A-Za-z0-9_-]{20,100})")
NAME = re.compile(r"[a-z0-9-]{1,40}")


class KeyRow(Strict):
    """A row of the key file: `rate` in queries a second, `burst` in queries, `concurrency` in requests in flight."""

    name: str = Field(pattern=NAME.pattern)
    sha256: str = Field(pattern="[0-9a-f]{64}")
    rate: float = Field(100.0, gt=0.0)
    burst: Positive = 200
    concurrency: Positive = 64


_ROWS = TypeAdapter(tuple[KeyRow, ...])


def owner(rows: Mapping[str, KeyRow], presented: str | None) -> KeyRow | None:
    """The row of a presented key; None where it is no valid one."""
    found = _KEY.fullmatch(presented or "")
    row = rows.get(found[1]) if found else None
    digest = hashlib.sha256((presented or "").encode()).hexdigest()
    if not hmac.compare_digest(digest, row.sha256 if row else "0" * 64):
        return None
    return row


def read_keys(path: Path) -> dict[str, KeyRow]:
    """The rows of a key file by name.

    Raises:
        InputError: It is missing, or not such a file.
    """
    if not path.exists():
        raise InputError("no such file", file=path, field="serving.keys", fix="`limbeck key NAME --file FILE` makes it")
    try:
        return {r.name: r for r in _ROWS.validate_python(read_json(path))}
    except (ValidationError, ValueError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InputError(f"not a key file: {what}", file=path, fix="Write it with `limbeck key`") from error


def make_key(path: Path, name: str, *, rate: float, burst: int, concurrency: int) -> str:
    """Add a key to a file, or replace the one of that name; returns the key, which is not stored.

    Raises:
        InputError: Not a valid name, or `path` is not a key file.
    """
    if not NAME.fullmatch(name):
        raise InputError("not a name for a key", field="NAME", found=name, expected="a-z, 0-9 and -, up to 40")
    rows = read_keys(path) if path.exists() else {}
    key = f"lk_{name}_{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    rows[name] = KeyRow(name=name, sha256=digest, rate=rate, burst=burst, concurrency=concurrency)
    write_json(path, [r.model_dump() for r in rows.values()])
    path.chmod(0o600)
    return key

"""The keyed hash of a query: equal queries can be counted and found again, and only with the key.

A plain hash of a search query protects nothing: whoever hashes a dictionary of queries reads it. The key never leaves
the state folder; without it a hash says only whether two queries are equal.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from task.errors import InputError
from task.normalize import NORMALISERS

FILE: Final = "query.key"
_BYTES: Final = 32
# Fixed: another normaliser would give the same query another hash than the one that was written before.
_normalised = NORMALISERS["v1"]


class QueryKey:
    """The key of a state folder: 32 random bytes that only the service's user can read."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of(cls, folder: Path) -> QueryKey:
        """The key of a state folder; the first process that asks makes it, and a restart keeps it.

        Raises:
            InputError: The file is not a key.
            OSError: It can be neither read nor written.
        """
        path = folder / FILE
        if not path.exists():
            _make(path)
        key = path.read_bytes()
        if len(key) != _BYTES:
            raise InputError(
                "not a key of query hashes", file=path, found=f"{len(key)} bytes", expected=f"{_BYTES} bytes",
                fix="Restore it from a backup; if it is removed, a new one is made, and hashes of before match no more",
            )
        return cls(key)

    def hash(self, query: str) -> str:
        """Hex HMAC-SHA-256 of the query, normalised by `v1`: variants that a cache takes for equal have one hash."""
        return hmac.digest(self._key, _normalised(query).encode(errors="replace"), "sha256").hex()


def _make(path: Path) -> None:
    """Write a new key under another name, and give it its own unless another process was first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(temporary)  # never replaces a key that is there
        except OSError:
            if not path.exists():  # a file system without links
                temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

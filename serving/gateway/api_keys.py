"""API keys with their rate limits and concurrency limits.

A key is `lk_NAME_SECRET`; the file holds its SHA-256, never the key. The name finds the row, the digest is compared in
constant time. A key of 256 random bits needs no slow hash, because it cannot be guessed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
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


@dataclass(kw_only=True, slots=True)
class Bucket:
    """A token bucket: `rate` tokens a second, at most `burst` saved; times are `time.monotonic()`.

    By hand, because a request must not wait here and `Retry-After` needs the seconds until there are enough tokens:
    aiolimiter has neither an attempt that returns at once nor that time.
    """

    rate: float
    burst: float
    tokens: float
    at: float

    def take(self, wanted: float, *, now: float) -> float:
        """Take tokens and return 0; or take none and return the seconds until there are enough."""
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        need = min(wanted, self.burst)  # a request larger than the bucket needs a full one
        if self.tokens >= need:
            self.tokens -= wanted
            return 0.0
        return (need - self.tokens) / self.rate


@dataclass(slots=True)
class Caller:
    """The owner of a key: its token bucket and its requests in flight."""

    row: KeyRow
    bucket: Bucket
    in_flight: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a caller is refused; `retry_after` is in seconds."""

    status: int
    reason: str
    message: str
    retry_after: float = 0.0


@dataclass(slots=True)
class Callers:
    """All callers of one worker; each of `workers` grants an equal share of every rate. `rows` None asks for no key."""

    rows: Mapping[str, KeyRow] | None
    workers: int = 1
    known: dict[str, Caller] = field(default_factory=dict)

    def admit(self, presented: str | None) -> Caller | Refusal | None:
        """The caller of a key; None where no key is needed.

        Args:
            presented: The key that came with the request.
        """
        if self.rows is None:
            return None
        found = _KEY.fullmatch(presented or "")
        row = self.rows.get(found[1]) if found else None
        digest = hashlib.sha256((presented or "").encode()).hexdigest()
        if not hmac.compare_digest(digest, row.sha256 if row else "0" * 64) or row is None:
            return Refusal(status=401, reason="no key", message="give a valid API key: `Authorization: Bearer lk_…`")
        caller = self.known.get(row.name)
        if caller is None:
            caller = self.known[row.name] = Caller(row, self._bucket(row))
        elif caller.row != row:
            caller.row, caller.bucket = row, self._bucket(row)
        if caller.in_flight >= max(1, row.concurrency // self.workers):
            return Refusal(
                status=429, reason="concurrency", retry_after=1.0,
                message=f"{caller.in_flight} requests of this key are being answered",
            )
        return caller

    def charge(self, caller: Caller, queries: int) -> Refusal | None:
        """Take a token for each query; a refusal where there are not enough."""
        wait = caller.bucket.take(queries, now=time.monotonic())
        if not wait:
            return None
        return Refusal(
            status=429, reason="rate", retry_after=wait,
            message=f"over the rate of this key, {caller.row.rate:g} queries/s",
        )

    def _bucket(self, row: KeyRow) -> Bucket:
        share = 1.0 / self.workers
        burst = row.burst * share
        return Bucket(rate=row.rate * share, burst=burst, tokens=burst, at=time.monotonic())


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

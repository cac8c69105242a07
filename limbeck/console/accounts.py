"""Users of the console, their sessions, and the audit log: one SQLite file in the console's state folder.

Passwords are hashed with Argon2id (RFC 9106, the library's defaults). Of a session only the SHA-256 of its token is
kept, so that the file lets nobody in.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from task.errors import InputError

Role = Literal["look", "label", "release"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
_IDLE_S: Final = 12 * 3600.0
_LONGEST_S: Final = 7 * 86_400.0
_TOUCH_S: Final = 60.0  # a session's last use is written no more often
_TRIES, _TRIES_S = 10, 300.0  # wrong passwords of a name, and within how long
_SHORTEST: Final = 10
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS users (
    name TEXT PRIMARY KEY, password TEXT NOT NULL, roles TEXT NOT NULL, created REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS sessions (
    token TEXT PRIMARY KEY, name TEXT NOT NULL, csrf TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL, subject TEXT NOT NULL,
    before TEXT NOT NULL, after TEXT NOT NULL
);
"""


def role_of(text: str) -> Role:
    """The role of this name. Raises `ValueError` if there is none."""
    return ROLES[ROLES.index(text)]


@dataclass(frozen=True, slots=True)
class Session:
    """Who sends a request.

    Attributes:
        name: The user; of the person at this machine where the console has no users.
        csrf: Secret that every form carries, so that no other page can send it.
        signed_in: Whether they signed in here, and can sign out.
    """

    name: str
    roles: frozenset[Role]
    csrf: str
    signed_in: bool = True


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A decision that changed something outside the ledger."""

    id: int
    at: float
    who: str
    what: str
    subject: str
    before: Any
    after: Any


class Accounts:
    """Users, sessions and audit log; usable from several threads."""

    def __init__(self, folder: Path) -> None:
        """Open the file, or make it, readable by its owner only. Raises `InputError` where that is not possible."""
        self.path = folder / "console.sqlite"
        self._lock = threading.Lock()
        self._hasher = PasswordHasher()
        self._nobody = self._hasher.hash(secrets.token_urlsafe())  # so that an unknown name takes as long as a known
        self._failed: dict[str, list[float]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10.0)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise InputError(
                f"cannot open the console's users: {error}", file=self.path,
                fix="Check that the folder can be written, or give another one with --state",
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # -- users --

    def names(self) -> list[str]:
        """All users."""
        return [name for name, in self._rows("SELECT name FROM users ORDER BY name")]

    def roles(self, name: str) -> frozenset[Role]:
        """What a user may do; nothing for an unknown one."""
        found = self._rows("SELECT roles FROM users WHERE name = ?", name)
        return frozenset(json.loads(found[0][0])) if found else frozenset()

    def put(self, name: str, password: str | None, roles: Iterable[Role]) -> None:
        """Add a user, or give one another password and other roles; ends their sessions.

        Args:
            password: None for one who signs in at the proxy only.

        Raises:
            InputError: The name or the password is not fit.
        """
        if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > 64:
            raise InputError(
                "not fit for a user's name", field="NAME", found=name, expected="1 to 64 printable characters"
            )
        if password is not None and len(password) < _SHORTEST:
            raise InputError(
                "too short a password", field="password", expected=f"at least {_SHORTEST} characters"
            )
        hashed = "" if password is None else self._hasher.hash(password)
        with self._lock:
            self._db.execute(
                "INSERT INTO users VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET password = excluded.password, "
                "roles = excluded.roles", (name, hashed, json.dumps(sorted(set(roles))), time.time()),
            )
            self._db.execute("DELETE FROM sessions WHERE name = ?", (name,))

    def remove(self, name: str) -> bool:
        """Remove a user and their sessions; returns whether there was one."""
        with self._lock:
            self._db.execute("DELETE FROM sessions WHERE name = ?", (name,))
            return self._db.execute("DELETE FROM users WHERE name = ?", (name,)).rowcount == 1

    def is_right(self, name: str, password: str) -> bool:
        """Whether a password is the user's; takes as long for a user that there is not."""
        found = self._rows("SELECT password FROM users WHERE name = ?", name)
        hashed = found[0][0] if found and found[0][0] else self._nobody
        try:
            right = self._hasher.verify(hashed, password) and hashed != self._nobody
        except (VerificationError, InvalidHashError):
            right = False
        now = time.time()
        with self._lock:
            if right:
                self._failed.pop(name, None)
            else:
                self._failed[name] = [t for t in self._failed.get(name, ()) if t > now - _TRIES_S] + [now]
        return right

    def wait_s(self, name: str) -> float:
        """Seconds until a name may try again; 0 unless there were too many wrong passwords."""
        with self._lock:
            recent = [t for t in self._failed.get(name, ()) if t > time.time() - _TRIES_S]
        return 0.0 if len(recent) < _TRIES else recent[-_TRIES] + _TRIES_S - time.time()

    # -- sessions --

    def begin(self, name: str) -> str:
        """Begin a session; returns the token for the cookie."""
        token, now = secrets.token_urlsafe(32), time.time()
        with self._lock:
            self._db.execute(
                "DELETE FROM sessions WHERE used < ? OR created < ?", (now - _IDLE_S, now - _LONGEST_S)
            )
            self._db.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?)",
                (_digest(token), name, secrets.token_urlsafe(32), now, now),
            )
        return token

    def session(self, token: str) -> tuple[str, str] | None:
        """User and CSRF secret of a session; None where it has ended, or never was."""
        now = time.time()
        found = self._rows("SELECT name, csrf, created, used FROM sessions WHERE token = ?", _digest(token))
        if not found or found[0][2] < now - _LONGEST_S or found[0][3] < now - _IDLE_S:
            return None
        name, csrf, _, used = found[0]
        if used < now - _TOUCH_S:
            with self._lock:
                self._db.execute("UPDATE sessions SET used = ? WHERE token = ?", (now, _digest(token)))
        return name, csrf

    def end(self, token: str) -> None:
        """End a session."""
        with self._lock:
            self._db.execute("DELETE FROM sessions WHERE token = ?", (_digest(token),))

    # -- audit log --

    def note(self, who: str, what: str, subject: str, before: Any = None, after: Any = None) -> None:
        """Add a line to the audit log; on return it is on disk."""
        values = (time.time(), who, what, subject, json.dumps(before), json.dumps(after))
        with self._lock:
            self._db.execute(
                "INSERT INTO audit (at, who, what, subject, before, after) VALUES (?, ?, ?, ?, ?, ?)", values
            )

    def audit(self, *, before: int | None = None, limit: int = 50) -> list[AuditEntry]:
        """Lines of the audit log, newest first.

        Args:
            before: Only lines with a smaller id.
        """
        rows = self._rows(
            "SELECT id, at, who, what, subject, before, after FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?",
            before if before is not None else 2**62, limit,
        )
        return [
            AuditEntry(id_, at, who, what, subject, json.loads(old), json.loads(new))
            for id_, at, who, what, subject, old, new in rows
        ]

    def _rows(self, sql: str, *values: Any) -> Sequence[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()

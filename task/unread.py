"""Names in a user's file that nothing reads: told once a file, because a misspelt one changes results silently."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from task.errors import warn

_NAMED: Final = 8  # more names than this are only counted
_SIMILAR: Final = 0.7  # of `difflib`: `cnt` and `count`, `quantity` and nothing


class UnreadNames:
    """Collects the names that occur in a table and reports those that are not known."""

    def __init__(self, source: Path | str, known: Mapping[str, bool], what: str = "columns") -> None:
        """Start with nothing seen.

        Args:
            known: Name → whether it is read here; a known name that is not is one of our own files' and no mistake.
            what: What the names are of.
        """
        self._source, self._known, self._what = source, known, what
        self._seen: dict[str, None] = {}

    def see(self, names: Iterable[object]) -> None:
        """Take the names of one row."""
        self._seen.update(dict.fromkeys(map(str, names)))

    def tell(self) -> None:
        """Warn if names were seen that nothing reads. An unnamed column, such as an index, is none."""
        unread = [n for n in self._seen if n.strip() and n not in self._known]
        if not unread:
            return
        more = f" and {len(unread) - _NAMED} more" if len(unread) > _NAMED else ""
        missing = [n for n, read in self._known.items() if read and n not in self._seen]
        parts = [n for n in unread if n.partition(".")[0] in self._known]
        near = {n: _nearest(n, missing) for n in unread if n not in parts}
        hints = [f"{n!r} is probably meant as {known!r}" for n, known in near.items() if known]
        read = ", ".join(n for n, is_read in self._known.items() if is_read)
        warn(
            f"{self._what} not read: {', '.join(unread[:_NAMED])}{more}", file=self._source, expected=read,
            fix="; ".join([*hints[:_NAMED], "rename it"]) if hints else _as_mapping(parts[0]) if parts else None,
        )


def _as_mapping(name: str) -> str:
    """What to do about a column such as `attributes.colour`."""
    column, _, key = name.partition(".")
    return f"Write one column {column!r} that holds a mapping, in CSV as JSON: {{{json.dumps(key)}: …}}"


def _nearest(name: str, known: Iterable[str]) -> str | None:
    plain = {k.casefold(): k for k in known}
    found = difflib.get_close_matches(name.strip().casefold(), plain, n=1, cutoff=_SIMILAR)
    return plain[found[0]] if found else None

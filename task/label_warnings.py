"""Queries and labels that are read as they are, though a file of them is probably damaged: told once a file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from task.errors import warn
from task.labels import Example
from task.text import printable
from task.word_borders import cuts_word

_SHOWN: Final = 3


class OddQueries:
    """Counts queries without any text, and with NUL characters."""

    def __init__(self, source: Path | str) -> None:
        """Start with nothing seen."""
        self._source = source
        self._blank: list[int] = []
        self._nul: list[tuple[int, str]] = []

    def see(self, query: str, line: int) -> None:
        """Take the query of one row."""
        if not query.strip():
            self._blank.append(line)
        elif "\0" in query:
            self._nul.append((line, query))

    def tell(self) -> None:
        """Warn of what was seen."""
        if self._blank:
            warn(
                f"{len(self._blank):,} queries have no text (lines {_lines(self._blank)}); they get no labels",
                file=self._source, field="query", fix="Remove these rows",
            )
        if self._nul:
            query = self._nul[0][1]
            warn(
                f"{len(self._nul):,} queries hold NUL characters (lines {_lines([n for n, _ in self._nul])}: "
                f"{printable(query)!r}); they are read as they are", file=self._source, field="query",
                fix="Look at how the file was exported",
            )


class CutWords:
    """Counts spans that begin or end inside a word, as `ilk` does in `oat milk`."""

    def __init__(self, source: Path | str) -> None:
        """Start with nothing seen."""
        self._source = source
        self._labels = 0
        self._cut: list[str] = []

    def see(self, row: Example, line: int) -> None:
        """Take the labels of one row."""
        for label in row.labels:
            if label.start is None or label.end is None:
                continue
            self._labels += 1
            if cuts_word(row.query, label.start, label.end):
                self._cut.append(f"{label.text!r} in {row.query!r}, line {line}")

    def tell(self) -> None:
        """Warn of what was seen."""
        if self._cut:
            warn(
                f"{len(self._cut):,} of {self._labels:,} labels begin or end inside a word "
                f"({'; '.join(self._cut[:_SHOWN])})", file=self._source, field="labels",
                fix="Check texts and offsets; if words are meant to be cut, nothing is wrong",
            )


def _lines(numbers: list[int]) -> str:
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return ", ".join(map(str, numbers[:_SHOWN])) + more

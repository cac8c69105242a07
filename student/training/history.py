"""The history of a training run: a JSON line for every step, written when the step is done."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from task.files import write_text


def read_history(path: Path) -> list[dict[str, Any]]:
    """The steps so far, one mapping each; an incomplete last line is ignored."""
    return HistoryReader(path).read_new()


class HistoryReader:
    """Reads a history while it grows, each line once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._at = 0

    def read_new(self) -> list[dict[str, Any]]:
        """The steps that have been written since the last call; all steps if the file was replaced."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            here = os.fstat(file.fileno()).st_ino
            if here != self._file:  # a resumed worker replaced the file by a shorter one
                self._file, self._at = here, 0
            file.seek(self._at)
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._at += len(whole) + 1
        return [json.loads(x) for x in whole.splitlines()]


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a step."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def truncate_after(path: Path, step: int) -> None:
    """Drop the lines of later steps, which will be repeated, and an incomplete last line."""
    if path.exists():
        write_text(path, "".join(json.dumps(x) + "\n" for x in read_history(path) if x["step"] <= step))

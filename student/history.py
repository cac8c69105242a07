"""The history of a training run: a line of JSON for every step, written as it is taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_history(path: Path) -> list[dict[str, Any]]:
    """The steps so far, a mapping each; a line that a kill has torn is none."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(x) for x in lines if x.endswith("}")]


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a step."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that will be taken again."""
    if path.exists():
        path.write_text("".join(json.dumps(x) + "\n" for x in read_history(path) if x["step"] <= step))

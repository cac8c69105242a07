"""A file that holds one JSON array of objects, as Label Studio exports it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from task.errors import InputError
from task.table_files import text_lines


def read_json_list(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON array; a single object is an array of one.

    Raises:
        InputError: There is no such file, it is not JSON in UTF-8, or it holds something else.
    """
    text = "".join(line for _, line in text_lines(existing(path)))
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"not JSON: {error.msg} at column {error.colno}", file=path, line=error.lineno, expected="one JSON array",
            fix="A file with an object a line is JSON lines; Label Studio exports one array",
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]
        raise InputError(f"not JSON: {problem}", file=path) from error
    rows = [found] if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise InputError("not a list", file=path, found=found, expected="a JSON array of tasks")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InputError("not an object", file=path, field=str(number), found=row, expected="a task")
    return rows


def existing(path: Path) -> Path:
    """The path as given. Raises `InputError` where it is no file."""
    if not path.is_file():
        raise InputError("no such file", file=path, fix="Check the path")
    return path

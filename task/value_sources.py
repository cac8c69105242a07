"""The values of a closed role that stand outside of the task file: in a file, or in a field of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from task.errors import InputError
from task.fields import Fields
from task.hub_tables import split_of
from task.readers import read_catalogue
from task.role import ValuesFrom
from task.table_files import located_rows
from task.value_tree import path_problem

_COLUMN = "value"


class _Found(NamedTuple):
    file: Path | str
    line: int
    field: str | None
    value: str


def anchor_files(config: Mapping[str, Any], folder: Path) -> None:
    """Make the files of `values_from`, which are relative to their task file, relative to the working directory."""
    for _, role in _roles_with_source(config):
        source = role["values_from"]
        if isinstance(source, dict) and isinstance(source.get("file"), str):
            source["file"] = str(folder / source["file"])


def resolve_values(
    config: Mapping[str, Any], lines: Mapping[tuple[str, ...], tuple[Path, int]], path: Path,
    explain: Callable[[ValidationError, tuple[str, ...]], InputError],
) -> None:
    """Replace each `values_from` by the `values` that it names, which so are a part of the task and its fingerprints.

    Args:
        config: The task file, which is changed; not validated yet.
        lines: The file and line of each key.
        path: The task file.
        explain: The error for a section that is not valid, given its key.

    Raises:
        InputError: `values_from` is not valid, stands beside `values`, or as in `read_values`.
    """
    for number, role in _roles_with_source(config):
        keys = ("roles", str(number), "values_from")
        try:
            source = ValuesFrom.model_validate(role["values_from"])
        except ValidationError as error:
            raise explain(error, keys) from error
        if role.get("values"):
            file, line = lines.get(keys, (path, None))
            raise InputError(
                "both `values` and `values_from`", file=file, line=line, field=".".join(keys), expected="one of them"
            )
        separator = role.get("separator")
        separator = separator if isinstance(separator, str) and separator else None
        role["values"] = list(read_values(source, separator=separator, catalogue=_catalogue(config)))
        del role["values_from"]


def _roles_with_source(config: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    roles = config.get("roles")
    for number, role in enumerate(roles if isinstance(roles, list) else ()):
        if isinstance(role, dict) and role.get("values_from") is not None:
            yield number, role


def _catalogue(config: Mapping[str, Any]) -> Path | str | None:
    """The catalogue that a task file names; None where it names none, or one that is generated later."""
    data = config.get("data")
    name = data.get("catalogue") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(name, str):
        return None
    if isinstance(data.get("dir"), str):
        return Path(data["dir"]) / name
    return f"hub:{data['hub']}:{split_of(name)}" if isinstance(data.get("hub"), str) else None


def read_values(source: ValuesFrom, *, separator: str | None, catalogue: Path | str | None) -> tuple[str, ...]:
    """The values, in the order of their texts: a file in another order is the same set.

    Args:
        source: A relative `file` is relative to the working directory.
        separator: Of a taxonomy, between the parts of a path.
        catalogue: The catalogue of the task, as `task.table_files` names tables; None where it has none.

    Raises:
        InputError: No such file or catalogue, no value in it, a value that a file holds twice, a path with an empty
            part.
    """
    if source.field is not None:
        return _of_catalogue(source.field, separator, catalogue)
    assert source.file is not None
    seen: dict[str, _Found] = {}
    for found in _text(source.file) if source.file.suffix == ".txt" else _table(source.file, source.column or _COLUMN):
        problem = None if separator is None else path_problem(found.value, separator)
        if problem is not None:
            raise InputError(
                problem, file=found.file, line=found.line, field=found.field,
                expected=f"parts with a text, joined by {separator!r}",
                fix="Correct the path, or the role's `separator`",
            )
        if found.value in seen:
            first = seen[found.value]
            raise InputError(
                "a value that stands in two places", file=found.file, line=found.line, field=found.field,
                found=found.value, expected=f"each value once (first in line {first.line} of {first.file})",
                fix="Remove one of them; of two categories with one name give each its full path",
            )
        seen[found.value] = found
    if not seen:
        raise InputError(
            "no values", file=source.file, expected="a value a line",
            fix="Lines that begin with # are comments, blank lines are passed over",
        )
    return tuple(sorted(seen))


def _text(file: Path) -> Iterator[_Found]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(
            "no such file", file=file, field="values_from.file", fix="The path is relative to the task file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", file=file, expected="a text in UTF-8") from error
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            yield _Found(file, number, None, line.strip())


def _table(file: Path, column: str) -> Iterator[_Found]:
    for path, number, row in located_rows(file):
        f = Fields(path, number, row)
        value = f.text(column)
        if not value.strip():
            raise f.error(column, "an empty value", "a text")
        yield _Found(path, number, column, value.strip())


def _of_catalogue(field: str, separator: str | None, catalogue: Path | str | None) -> tuple[str, ...]:
    if catalogue is None:
        raise InputError(
            "the values of a field of the catalogue need a catalogue that is there when the task is loaded",
            field="values_from.field", found=field, expected="data.catalogue",
            fix="With `data.sample` the catalogue is generated later: name a `file` of values",
        )
    found: set[str] = set()
    for item in read_catalogue(catalogue):
        for value in item.values(field):
            problem = None if separator is None else path_problem(value, separator)
            if problem is not None:
                raise InputError(
                    problem, file=catalogue, field=field, found=f"item {item.id}",
                    expected=f"parts with a text, joined by {separator!r}",
                )
            found.add(value)
    if not found:
        raise InputError("no item of the catalogue has this field", file=catalogue, field=field)
    return tuple(sorted(found))
